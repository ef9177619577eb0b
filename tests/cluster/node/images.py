"""Images for the cluster: the project's own, the services beside them, and kind's node where no registry is reached.

The project's images come from the Dockerfile that users build. Where their base can't be pulled, one is made from
Debian's packages: `debootstrap`, slimmed as debian:slim is, and on it the Python of that Debian. Standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.node.docker import Docker, Missing, home, install, say
from tests.tools import build

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ROOT / "tests" / "cluster" / "images"
PROJECT = ("api", "workers", "operator")
SERVICES = ("postgres", "clamd", "s3")
"""And `minio`, on demand: its S3 can be had instead of versitygw's."""
WITH_MODEL = "workers-with-model"
"""The workers' image with the small model of tests/fixtures/, as /models/tiny-words."""
SPEECH_MODEL = ROOT / "tests" / "fixtures" / "whisper-tiny-words"
TOOL_OF = {"s3": "versitygw", "minio": "minio"}

KINDEST_NODE = "kindest/node:v1.35.8@sha256:07b2536e30b803ed61d1677a79df6115f798ce64c80f9e22f6ed45afd09323c0"
PYTHON = "python:3.11-slim"
DEBIAN = "debian:bookworm-slim"
OWN_PYTHON, OWN_DEBIAN = f"localhost/{PYTHON}", f"localhost/{DEBIAN}"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD_CERTIFICATES = Path("/etc/ssl/build-certificates.crt")
"""What this machine trusts, for pip in builds: under a name of its own, since packages write the usual one anew."""

# What kubeadm of our Kubernetes asks for below the imageRepository of kind-own-node.yaml. The kubelet finds them there.
REPOSITORY = "localhost/kubernetes"
ETCD_TAG, COREDNS_TAG, PAUSE_TAG = "3.6.6-0", "v1.13.1", "3.10.1"


def tag(name: str) -> str:
    """The name of one of our images in Docker and in the cluster."""
    return f"localhost/media-{name}:dev"


def make(docker: Docker, *names: str, root: Path = ROOT) -> list[str]:
    """Builds these (all of the project's and the services without names) and returns their tags.

    `root` is the checkout that the project's are made of. What has not changed comes from Docker's layer cache.
    """
    return [_make(docker, name, root) for name in names or (*PROJECT, *SERVICES)]


def _make(docker: Docker, name: str, root: Path) -> str:
    started = time.monotonic()
    if name in PROJECT:
        if name == "api" and root == ROOT:
            subprocess.run([sys.executable, root / "page" / "build.py", "--try"], check=False)
        base = _base(docker, PYTHON)
        _build(docker, tag(name), root, "--target", name, "--build-arg", f"BASE={base}")
    elif name == WITH_MODEL:
        workers = _make(docker, "workers", root)
        file = FOLDERS / name / "Dockerfile"
        _build(docker, tag(name), SPEECH_MODEL, "--file", file, "--build-arg", f"WORKERS={workers}")
    elif name in TOOL_OF:
        with _context(FOLDERS / name, build.provide(build.TOOLS[TOOL_OF[name]])) as context:
            _build(docker, tag(name), context)
    else:
        bases = [f"BASE={_base(docker, PYTHON)}"] if name == "postgres" else []
        bases.append(f"DEBIAN={_base(docker, DEBIAN)}")
        arguments = [argument for base in bases for argument in ("--build-arg", base)]
        _build(docker, tag(name), FOLDERS / name, *arguments)
    size = int(docker.run("image", "inspect", "--format", "{{.Size}}", tag(name)))
    say(f"{tag(name)}: {size / 1e6:.0f} MB, {time.monotonic() - started:.1f} s")
    return tag(name)


def biggest(docker: Docker, name: str) -> str:
    """What takes most room among the Python packages of one of the project's images."""
    look = "du -sm /opt/venv/lib/python3*/site-packages/* | sort -rn | head -5"
    lines = docker.run("run", "--rm", "--network=none", "--entrypoint=sh", tag(name), "-c", look).splitlines()
    return ", ".join(f"{Path(path).name} {size} MB" for size, path in (line.split() for line in lines))


def node(docker: Docker) -> str:
    """kind's node image: the stock one where it can be pulled, else ours, built once for all that goes into it."""
    if docker.has(KINDEST_NODE) or docker.pull(KINDEST_NODE):
        return KINDEST_NODE
    version = build.TOOLS["kubelet"].version
    image = f"localhost/kind-node:{version}-{_digest_of_node()}"
    if docker.has(image):
        return image
    say(f"{image}: building once, this can take minutes")
    with tempfile.TemporaryDirectory(prefix=".node-", dir=home()) as scratch:
        context = Path(scratch) / "context"
        shutil.copytree(FOLDERS / "node", context)
        (context / "version").write_text(version)
        (context / "bin").mkdir()
        for name in ON_THE_NODE:
            _link(build.provide(build.TOOLS[name]), context / "bin" / name)
        images = _control_plane_images(docker, version)
        docker.run("save", "--output", context / "images.tar", *images)
        _build(docker, image, context, "--build-arg", f"DEBIAN={_base(docker, DEBIAN)}")
        docker.run("image", "rm", *images)
    return image


ON_THE_NODE = ("kubeadm", "kubelet", "kubectl")
SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def _digest_of_node() -> str:
    digest = hashlib.sha256()
    for folder in ("node", "kube-proxy"):
        for file in sorted(file for file in (FOLDERS / folder).rglob("*") if file.is_file()):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    for name in (*ON_THE_NODE, *SERVERS, "kube-proxy", "etcd", "coredns", "pause"):
        digest.update(build.TOOLS[name].built.parent.name.encode())
    return digest.hexdigest()[:12]


def _control_plane_images(docker: Docker, version: str) -> list[str]:
    """What kubeadm would pull: each is one static program."""
    programs = [
        *((name, version) for name in SERVERS),
        ("etcd", ETCD_TAG),
        ("coredns", COREDNS_TAG),
        ("pause", PAUSE_TAG),
    ]
    images = [_import(docker, f"{REPOSITORY}/{name}:{tag}", name) for name, tag in programs]
    with _context(FOLDERS / "kube-proxy", build.provide(build.TOOLS["kube-proxy"])) as context:
        images.append(f"{REPOSITORY}/kube-proxy:{version}")
        _build(docker, images[-1], context, "--build-arg", f"DEBIAN={_base(docker, DEBIAN)}")
    return images


def _import(docker: Docker, image: str, tool: str) -> str:
    """An image with one program in it, which kubeadm's manifests look for on the PATH."""
    path = f"usr/local/bin/{tool}"
    with tempfile.NamedTemporaryFile(suffix=".tar", dir=home()) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(build.provide(build.TOOLS[tool]), path)
        file.flush()
        docker.run(
            *("import", "--change", f'ENTRYPOINT ["/{path}"]', "--change", "ENV PATH=/usr/local/bin"),
            *("--change", "ENV GOGC=400", file.name, image),  # as tests/conftest.py says
        )
    return image


@functools.cache
def _base(docker: Docker, image: str) -> str:
    """`image` where it can be had, else our own of the same content."""
    if docker.has(image) or docker.pull(image):
        return image
    own = f"localhost/{image}"
    if docker.has(own):
        return own
    if image == PYTHON:
        _build(docker, own, FOLDERS / "python", "--build-arg", f"DEBIAN={_base(docker, DEBIAN)}")
    else:
        _bootstrap(docker, own)
    return own


def _bootstrap(docker: Docker, image: str) -> None:
    if os.geteuid() != 0:
        raise Missing(f"{DEBIAN} can't be pulled, and making one with debootstrap needs root")
    if not shutil.which("debootstrap"):
        install("debootstrap")
    say(f"{image}: debootstrap, about a minute")
    with tempfile.TemporaryDirectory(prefix=".debian-", dir=home()) as scratch:
        root = Path(scratch) / "root"
        command: list[str | Path] = ["debootstrap", "--variant=minbase", "bookworm", root, *_mirror()]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise Missing(f"debootstrap failed: {ran.stdout.strip().splitlines()[-1]}")
        _slim(root)
        certificates = root / BUILD_CERTIFICATES.relative_to("/")
        certificates.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CERTIFICATES, certificates)
        with tempfile.NamedTemporaryFile(suffix=".tar", dir=home()) as file:
            subprocess.run(["tar", "-C", root, "-c", "-f", file.name, "."], check=True)
            docker.run("import", "--change", f"ENV PIP_CERT={BUILD_CERTIFICATES}", file.name, image)


def _mirror() -> list[str]:
    """The archive that apt uses here; debootstrap's own default without one."""
    policy = subprocess.run(["apt-cache", "policy"], capture_output=True, text=True, check=True).stdout
    return [word for word in policy.split() if word.rstrip("/").endswith("/debian") and "://" in word][:1]


def _slim(root: Path) -> None:
    """What debian:slim leaves out, now and in later installations."""
    left_out = ("doc", "info", "lintian", "locale", "man")
    exclude = "".join(f"path-exclude /usr/share/{name}/*\n" for name in left_out)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(exclude)
    for folder in (*(f"usr/share/{name}" for name in left_out), "var/lib/apt/lists", "var/cache/apt", "var/log"):
        for path in (root / folder).glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _build(docker: Docker, image: str, context: Path, *arguments: str | Path) -> None:
    # Our own daemon has no bridge: what a build fetches, it fetches through the host's network.
    network = ("--network", "host") if docker.host else ()
    try:
        docker.run("build", "--quiet", *network, "--tag", image, *arguments, context)
    except subprocess.CalledProcessError as failed:
        raise Missing(f"{image} could not be built:\n{(failed.stdout + failed.stderr).strip()[-3000:]}") from None


@contextlib.contextmanager
def _context(folder: Path, *programs: Path) -> Iterator[Path]:
    """A build context: the folder's files and these programs."""
    with tempfile.TemporaryDirectory(prefix=".context-", dir=home()) as scratch:
        context = Path(scratch) / folder.name
        shutil.copytree(folder, context)
        for program in programs:
            _link(program, context / program.name)
        yield context


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source.resolve())
    except OSError:  # another file system
        shutil.copy(source, target)
