"""The Docker daemon that clusters run on: one that answers here, else our own.

Our own leaves nothing behind. It is the first process of a PID namespace and has its own mount namespace, so when it
ends the kernel ends every container and drops every mount. It changes neither iptables nor kernel settings
(docker-proxy relays published ports). Its cgroups have one parent, and its only bridge has a fixed name; `stop` removes
these two. Only its store of images stays, in the cache. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
NETWORK = "media-kind"
BRIDGE = "media-kind"
CGROUP = "media-cluster"
START_SECONDS = 60.0
STOP_SECONDS = 5.0


class Missing(Exception):
    """The machine lacks something; the message says in one line how to get it."""


def home() -> Path:
    """Folder of all that clusters need and keep: MEDIA_CLUSTER_HOME, else ~/.cache/media-platform/cluster."""
    return Path(
        os.environ.get("MEDIA_CLUSTER_HOME") or Path.home() / ".cache" / "media-platform" / "cluster"
    ).absolute()


@dataclass(frozen=True)
class Docker:
    """A daemon that answers. `host` is None for the one that the environment names."""

    host: str | None

    @property
    def environment(self) -> dict[str, str]:
        # The classic builder: BuildKit of a newer client fails on Debian's daemon.
        ours = {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"} if self.host else {}
        return {**os.environ, **ours, "KIND_EXPERIMENTAL_DOCKER_NETWORK": NETWORK}

    def run(self, *arguments: str | Path) -> str:
        """`docker ARGUMENTS`; what it printed. Raises CalledProcessError with its errors in `stderr`."""
        ran = subprocess.run(["docker", *arguments], env=self.environment, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    def has(self, image: str) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run("image", "inspect", image)
            return True
        return False

    def pull(self, image: str) -> bool:
        """False where no registry is reached."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run("pull", "--quiet", image)
            return True
        return False

    def ensure_network(self) -> None:
        if not self.run("network", "ls", "--quiet", "--filter", f"name=^{NETWORK}$"):
            option = f"com.docker.network.bridge.name={BRIDGE}"
            self.run("network", "create", "--driver", "bridge", "--opt", option, NETWORK)

    def remove_network(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run("network", "rm", NETWORK)


def running() -> Docker | None:
    """The daemon of the machine or ours, if one answers now."""
    named = [] if os.environ.get("DOCKER_HOST") == _address() else [Docker(None)]
    for docker in (*named, Docker(_address())):
        if docker.host and not _socket().exists():
            continue
        with contextlib.suppress(subprocess.CalledProcessError, FileNotFoundError):
            docker.run("version")
            return docker
    return None


def ensure() -> Docker:
    """One that answers, installed and started if need be. Raises Missing."""
    if docker := running():
        return docker
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Missing(
            "No Docker daemon answers: start yours, or sudo apt-get install docker.io (as root, done for you)"
        )
    if not shutil.which("dockerd"):
        install("docker.io")
        if docker := running():  # where systemd starts what is installed
            return docker
    return _start()


def install(*packages: str) -> None:
    """Debian packages, by apt-get. Raises Missing."""
    command = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise Missing(f"{', '.join(packages)} is missing: {command}")
    say(f"{', '.join(packages)}: installing")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for attempt in (command, "apt-get update", command):
        if subprocess.run(attempt.split(), env=environment, capture_output=True, check=False).returncode != 0:
            continue
        if attempt == command:
            return
    raise Missing(f"{', '.join(packages)} could not be installed: {command}")


def stop() -> None:
    """Ends our own daemon, if it runs, and removes what a killed one leaves. Foreign daemons are not touched."""
    processes = _processes()
    for pid in processes:
        if _name(pid) == "dockerd":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while (left := _processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while _processes():
        time.sleep(0.05)
    _sweep()


def _start() -> Docker:
    if not shutil.which("ip"):
        install("iproute2")
    _sweep()
    data = home() / "docker"
    data.mkdir(parents=True, exist_ok=True)
    # Its own mount namespace first, so that not even the mounts of a start that fails are seen outside.
    command: list[str | Path] = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "dockerd"]
    command += ["--host", _address(), "--data-root", data / "data", "--exec-root", data / "exec"]
    command += ["--pidfile", data / "pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    command += ["--ip-forward=false", "--cgroup-parent", f"/{CGROUP}", "--exec-opt", "native.cgroupdriver=cgroupfs"]
    if not _has_every_capability():
        command += ["--add-runtime", f"lowered={HERE / 'runc-lowered'}", "--default-runtime", "lowered"]
    log = data / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
    docker = Docker(_address())
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(subprocess.CalledProcessError):
            docker.run("version")
            return docker
        time.sleep(0.05)
    stop()
    raise Missing(f"dockerd did not start: {_last_line(log)} (all of it: {log})")


def _sweep() -> None:
    """What outlives a killed daemon outside its namespaces."""
    # Its ports by name: the kernel takes them down with their containers, but not at once.
    ports = [port.name for port in Path(f"/sys/class/net/{BRIDGE}/brif").glob("*")]
    for interface in (*ports, BRIDGE):
        if Path(f"/sys/class/net/{interface}").exists():
            subprocess.run(["ip", "link", "delete", interface], capture_output=True, check=False)
    for controllers in [*Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"), Path("/sys/fs/cgroup") / CGROUP]:
        for folder, _, _ in os.walk(controllers, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    data = home() / "docker"
    shutil.rmtree(data / "exec", ignore_errors=True)
    for name in ("pid", "docker.sock"):
        (data / name).unlink(missing_ok=True)


def _processes() -> list[int]:
    """Those of our own daemon, told by the socket in their arguments: a pid file can lie, and can be lost."""
    return [pid for pid, arguments in _command_lines() if _address().encode() in arguments]


def _command_lines() -> Iterator[tuple[int, list[bytes]]]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(process.name), (process / "cmdline").read_bytes().split(b"\0")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _has_every_capability() -> bool:
    """`docker run --privileged` asks for all of them, and runc fails on one that root lacks here."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return int(status["CapEff"], 16) & (1 << last + 1) - 1 == (1 << last + 1) - 1


def _socket() -> Path:
    return home() / "docker" / "docker.sock"


def _address() -> str:
    return f"unix://{_socket()}"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
