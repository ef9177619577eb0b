"""The cluster `media`: kind on the daemon of `docker`, with the node of `images`. Standard library only.

`up` and `down` may be called at any time, in any state, by several processes: one at a time does its work.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.node import docker as dockers
from tests.cluster.node import images
from tests.cluster.node.docker import HERE, Docker, Missing, home, say
from tests.cluster.node.image_archive import thin
from tests.tools import build

NAME = "media"
NODE = f"{NAME}-control-plane"
CONFIG = HERE / "kind.yaml"
OWN_NODE_CONFIG = HERE / "kind-own-node.yaml"
PATCHES = HERE / "patches"
"""Changes of kubeadm's static pods. It has each of these asked every second whether it is ready, which takes CPU."""
READY_SECONDS = 180
CTR = ("ctr", "--namespace", "k8s.io")
IDENTITY = "docker-id"
"""Label of an image on the node: what Docker calls the image that was loaded."""


@dataclass(frozen=True)
class Cluster:
    """One that is up."""

    docker: Docker
    kubeconfig: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**self.docker.environment, "KUBECONFIG": str(self.kubeconfig)}

    def exports(self) -> list[str]:
        """Lines for a shell: KUBECONFIG, DOCKER_HOST of our own daemon, PATH if kubectl or helm is missing."""
        lines = [f"export KUBECONFIG={self.kubeconfig}"]
        if self.docker.host:
            lines.append(f"export DOCKER_HOST={self.docker.host}")
        missing = [tool for tool in ("kubectl", "helm") if not shutil.which(tool)]
        if missing:
            programs = home() / "bin"
            programs.mkdir(exist_ok=True)
            for tool in missing:
                (programs / tool).unlink(missing_ok=True)
                (programs / tool).symlink_to(build.provide(build.TOOLS[tool]))
            lines.append(f"export PATH={programs}:$PATH")
        return lines

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """`kubectl ARGUMENTS` with `given` as its input; what it printed. Raises CalledProcessError with its errors."""
        return self._run("kubectl", *arguments, given=given, check=check)

    def helm(self, *arguments: str) -> str:
        return self._run("helm", *arguments)

    def load(self, *names: str) -> None:
        """Images of Docker become images of the node; those that it has already are left out.

        Like `kind load docker-image`, but with the node's own word on what it has: of images too, only the layers
        that it lacks are sent.
        """
        started = time.monotonic()
        identities = {name: self.docker.run("image", "inspect", "--format", "{{.Id}}", name) for name in names}
        there = {line.split(" ", 1)[0]: line for line in self.node(*CTR, "images", "list").splitlines()}
        missing = [name for name, identity in identities.items() if f"{IDENTITY}={identity}" not in there.get(name, "")]
        if not missing:
            return
        into = ["docker", "exec", "--interactive", NODE, *CTR, "images", "import", "--digests", "-"]
        with tempfile.TemporaryDirectory(prefix=".saved-", dir=home()) as scratch:
            saved, sent = Path(scratch) / "saved.tar", Path(scratch) / "sent.tar"
            self.docker.run("save", "--output", saved, *missing)
            layers = self.node(*CTR, "content", "list", "--quiet").split()
            with saved.open("rb") as source, sent.open("wb") as file:
                thin(source, file, layers)
            with sent.open("rb") as file:
                subprocess.run(into, env=self.docker.environment, stdin=file, capture_output=True, check=True)
        for name in missing:
            self.node(*CTR, "images", "label", name, f"{IDENTITY}={identities[name]}")
        say(f"loaded {', '.join(missing)}: {time.monotonic() - started:.1f} s")

    def node(self, *command: str) -> str:
        """Runs a command on the node."""
        return self.docker.run("exec", NODE, *command)

    def _run(self, tool: str, *arguments: str, given: str | None = None, check: bool = True) -> str:
        ran = subprocess.run(
            [build.provide(build.TOOLS[tool]), *arguments],
            env=self.environment,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and ran.returncode != 0:
            raise subprocess.CalledProcessError(ran.returncode, ran.args, ran.stdout, ran.stderr)
        return ran.stdout


def kubeconfig() -> Path:
    return home() / "kubeconfig"


def current() -> Cluster | None:
    """The cluster, if it is up and answers."""
    if not kubeconfig().exists() or not (docker := dockers.running()):
        return None
    cluster = Cluster(docker, kubeconfig())
    return cluster if _answers(cluster) else None


def up() -> Cluster:
    """A cluster that is ready, from whatever state the machine is in. Raises Missing."""
    with _alone():
        if cluster := current():
            return cluster
        docker = dockers.ensure()
        kind = build.provide(build.TOOLS["kind"])
        image = images.node(docker)
        _delete(docker)  # stopped or half made; a new one is 20 s away
        docker.ensure_network()
        started = time.monotonic()
        say(f"kind cluster {NAME}: creating ... ", end="")
        command: list[str | Path] = [kind, "create", "cluster", "--name", NAME, "--image", image, "--config", "-"]
        command += ["--kubeconfig", kubeconfig(), "--wait", f"{READY_SECONDS}s"]
        config = _config(docker, image)
        ran = subprocess.run(command, env=docker.environment, input=config, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            say("failed")
            _delete(docker)
            shutil.rmtree(_stores(), ignore_errors=True)  # they may be why
            raise Missing(f"kind could not create the cluster:\n{ran.stderr.strip()[-3000:]}")
        cluster = Cluster(docker, kubeconfig())
        wait = f"--timeout={READY_SECONDS}s"
        cluster.kubectl("wait", "--namespace", "kube-system", "--for=condition=Available", "deployment/coredns", wait)
        say(f"{time.monotonic() - started:.0f} s")
        return cluster


def down() -> None:
    """Removes the cluster, and the daemon if it is ours. Images stay in the cache."""
    with _alone():
        if docker := dockers.running():
            # Our own daemon goes in any case, and the next one removes what a wounded one could not.
            with contextlib.suppress(*[subprocess.CalledProcessError] if docker.host else []):
                _delete(docker)
            if not docker.host:
                docker.remove_network()
        dockers.stop()
        kubeconfig().unlink(missing_ok=True)
        for leftover in home().glob(".*-*"):  # contexts of builds that were killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _config(docker: Docker, image: str) -> str:
    """Our own node's images stay in a folder of this machine, so that the next cluster need not unpack them again."""
    if image == images.KINDEST_NODE:
        return CONFIG.read_text()
    config = OWN_NODE_CONFIG.read_text()
    if not docker.host:  # a daemon of somebody else may not see our folders
        return config
    store = _stores() / image.rpartition(":")[2]
    for other in _stores().glob("*"):
        if other != store:
            shutil.rmtree(other)
    store.mkdir(parents=True, exist_ok=True)
    folders = {store: "/var/lib/containerd", PATCHES: "/kind/patches"}
    node = {
        "role": "control-plane",
        "extraMounts": [{"hostPath": str(ours), "containerPath": its} for ours, its in folders.items()],
        "kubeadmConfigPatches": [json.dumps({"kind": "InitConfiguration", "patches": {"directory": folders[PATCHES]}})],
    }
    return f"{config}nodes: {json.dumps([node])}\n"


def _stores() -> Path:
    """What containerd keeps of each of our node images."""
    return home() / "containerd"


def _answers(cluster: Cluster) -> bool:
    with contextlib.suppress(subprocess.CalledProcessError, json.JSONDecodeError):
        nodes = json.loads(cluster.kubectl("get", "nodes", "--output", "json", "--request-timeout", "5s"))["items"]
        conditions = [condition for node in nodes for condition in node["status"]["conditions"]]
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return False


def _delete(docker: Docker) -> None:
    """What `kind delete cluster` does, without the need to have kind."""
    nodes = docker.run("ps", "--all", "--quiet", "--filter", f"label=io.x-k8s.kind.cluster={NAME}").split()
    if nodes:
        docker.run("rm", "--force", "--volumes", *nodes)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that works on the cluster")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
