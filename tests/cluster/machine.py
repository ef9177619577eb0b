"""The state of the machine that a cluster could change, for comparison."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from tests.cluster.node.docker import CGROUP, home

CGROUPS = Path("/sys/fs/cgroup")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")


@dataclass(frozen=True)
class Machine:
    """Each set holds what there is of one kind."""

    processes: frozenset[str]
    """The daemon's, and all below it: command and identity of each."""
    mounts: frozenset[str]
    interfaces: frozenset[str]
    rules: frozenset[str]
    cgroups: frozenset[str]
    named_namespaces: frozenset[str]
    kernel_settings: frozenset[str]

    def changes_since(self, before: "Machine") -> dict[str, set[str]]:
        """By kind: what came and what went, marked + and -."""
        changes = {}
        for field in fields(self):
            now, then = getattr(self, field.name), getattr(before, field.name)
            changed = {f"+ {each}" for each in now - then} | {f"- {each}" for each in then - now}
            if changed:
                changes[field.name] = changed
        return changes


def slowness() -> float:
    """How much longer than on a core of its own a computation takes now: 1, and more while others use the machine."""
    spent, began = time.thread_time(), time.monotonic()
    sum(range(4_000_000))
    return max(1.0, (time.monotonic() - began) / (time.thread_time() - spent))


def look() -> Machine:
    return Machine(
        processes=frozenset(_processes()),
        mounts=frozenset(line.split(" ", 3)[3] for line in _lines("/proc/self/mountinfo")),
        interfaces=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
        rules=frozenset(_rules()),
        cgroups=frozenset(str(path) for depth in ("*", "*/*") for path in CGROUPS.glob(depth) if path.is_dir()),
        named_namespaces=frozenset(str(path) for path in Path("/run").glob("*netns/*")),
        kernel_settings=frozenset(_kernel_settings()),
    )


def inhabitants() -> dict[str, set[str]]:
    """Processes of the cluster and the namespaces that they live in; empty when there is none."""
    found: dict[str, set[str]] = {}
    for name in _processes():
        pid = name.split(" ", 1)[0]
        found[name] = set()
        for kind in NAMESPACES:
            with contextlib.suppress(OSError):  # it ended
                found[name].add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    return found


def living_namespaces() -> set[str]:
    """Those of all processes on the machine."""
    namespaces = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            for kind in NAMESPACES:
                try:
                    namespaces.add(str((process / "ns" / kind).readlink()))
                except OSError:
                    break  # it ended
    return namespaces


def _processes() -> Iterator[str]:
    """All that work for the daemon: named in its arguments, in its cgroup, or in its PID namespace."""
    ours = set()
    seen = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            cgroup = (process / "cgroup").read_text()
            born = (process / "stat").read_text().rsplit(") ", 1)[1].split()[19]
            namespace = (process / "ns" / "pid").readlink()
        except (OSError, IndexError):
            continue
        identity = f"{process.name} {born} {arguments[:80]}"
        if str(home()) in arguments or CGROUP in cgroup:
            yield identity
            if namespace != Path("/proc/self/ns/pid").readlink():
                ours.add(namespace)
        else:
            seen.append((namespace, identity))
    yield from (identity for namespace, identity in seen if namespace in ours)


def _rules() -> Iterator[str]:
    for command in ("iptables-save", "ip6tables-save"):
        ran = subprocess.run([command], capture_output=True, text=True, check=False)
        for line in ran.stdout.splitlines():
            if not line.startswith("#"):
                yield f"{command}: " + re.sub(r"\[\d+:\d+\]", "", line)


def _kernel_settings() -> Iterator[str]:
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables"):
        path = Path("/proc/sys") / name
        yield f"{name} = {path.read_text().strip() if path.exists() else 'absent'}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
