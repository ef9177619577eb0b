"""After `make cluster-down` the machine is as it was before `make cluster`, however the cluster ended.

It runs after all other tests. It does not run if the cluster is kept, or with a Docker daemon that ran before, whose
traces look like the cluster's.
"""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster import machine
from tests.cluster.node import docker as dockers
from tests.cluster.node import images, kind
from tests.cluster.node.docker import Missing
from tests.cluster.node.waiting import wait_until

pytestmark = pytest.mark.node


@pytest.fixture
def before(kept_cluster: bool) -> machine.Machine:
    """The machine without a cluster."""
    if kept_cluster:
        pytest.skip("a cluster that is to be kept is running")
    try:
        docker = dockers.ensure()  # installed now, if need be: packages are not what is compared
    except Missing as missing:
        pytest.skip(str(missing))
    if docker.host is None:
        pytest.skip("the machine's own Docker daemon is used")
    kind.down()
    return machine.look()


def test_a_start_that_is_killed_halfway_is_made_good_by_the_next_one_and_nothing_stays_behind(
    before: machine.Machine,
) -> None:
    starting = start()
    assert starting.stderr
    while b"creating" not in os.read(starting.stderr.fileno(), 4096):
        assert starting.poll() is None
    starting.kill()
    starting.wait()
    starting.stderr.close()

    cluster = kind.up()
    assert "Ready" in cluster.kubectl("get", "nodes")
    assert kind.up() == cluster
    inhabitants = machine.inhabitants()
    assert any("kubelet" in name for name in inhabitants), "the comparison sees no process of the cluster"
    assert machine.look().changes_since(before).keys() >= {"processes", "interfaces", "cgroups"}

    kind.down()

    assert machine.look().changes_since(before) == {}
    own_namespaces = set().union(*inhabitants.values()) - machine.living_namespaces()
    assert own_namespaces, "namespaces of the cluster were seen, and are gone"
    assert [name for name in inhabitants if is_alive(name)] == []


@pytest.mark.parametrize("victim", ["dockerd", "containerd"])
def test_nothing_stays_behind_after_kill_9(before: machine.Machine, victim: str) -> None:
    starting = start()
    wait_until(lambda: bool(pids_of("kube-apiserver")), 180, lambda: f"no API server: {machine.inhabitants()}")
    os.killpg(starting.pid, signal.SIGKILL)
    starting.communicate()
    victims = pids_of(victim)
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)

    kind.down()
    assert machine.look().changes_since(before) == {}
    kind.down()
    assert machine.look().changes_since(before) == {}


def start() -> subprocess.Popen[bytes]:
    """In a process group of its own."""
    command = ["python3", "-m", "tests.cluster", "up"]
    return subprocess.Popen(command, cwd=images.ROOT, stderr=subprocess.PIPE, start_new_session=True)


def pids_of(program: str) -> list[int]:
    """Those of the cluster."""
    pids = (int(inhabitant.split(" ", 1)[0]) for inhabitant in machine.inhabitants())
    return [pid for pid in pids if name_of(pid) == program]


def is_alive(inhabitant: str) -> bool:
    """Whether it still runs. Another process may have its pid, but began at another time.

    The daemon lost its parent, the start that was killed. Once it has ended, its pid stays until init asks for it.
    """
    pid, born, *_ = inhabitant.split(" ")
    with contextlib.suppress(OSError):
        told = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return told[0] != "Z" and told[19] == born
    return False


def name_of(pid: int) -> str:
    """Empty once it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
