"""Several processes that serve one port, for a container with several cores.

The parent opens the port, forks, and serves only `/metrics`. Each child is a complete api, with its share of the
container's memory, connections and decoding processes. A child that ends by itself is replaced. A parent that is told
to end passes that on to its children, and waits for them. A child never outlives its parent.
"""

import ctypes
import gc
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

MOST: Final = 4
"""Most processes of one pod by default. A tenant that needs more gets replicas."""
RESTART_SECONDS: Final = 1.0

_PR_SET_PDEATHSIG: Final = 1
_ADDS_UP: Final = re.compile("media_|process_(cpu|resident|virtual|open)").match
_LENGTH: Final = struct.Struct("!I")

_log = structlog.stdlib.get_logger("media.api")


def granted() -> int:
    """How many processes the container's CPU quota allows. 1 without a quota, as other pods use the cores too."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 1
    if quota == "max":
        return 1
    return max(1, min(MOST, len(os.sched_getaffinity(0)), int(quota) // int(period)))


class Asked:
    """A child, as its parent asks it for metrics."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = bytearray()
        self._awaited = 0

    def latest(self) -> bytes:
        """In Prometheus' text format. Raises OSError; an answer that comes too late is passed over the next time."""
        self.connection.sendall(b"?")
        self._awaited += 1
        while True:
            text = self._next()
            self._awaited -= 1
            if not self._awaited:
                return text

    def _next(self) -> bytes:
        """The next answer. What has come of one stays until the rest has come."""
        self._receive(_LENGTH.size)
        end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
        self._receive(end)
        text = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return text

    def _receive(self, least: int) -> None:
        while (left := least - len(self._received)) > 0:
            part = self.connection.recv(left)
            if not part:
                raise ConnectionError("the process has ended")
            self._received += part


class Processes:
    """`count` children that run `serve`. Its arguments are the child's number and the socket on which the parent asks
    for metrics; it returns an exit status."""

    def __init__(self, count: int, serve: Callable[[int, socket.socket], int]) -> None:
        self._serve = serve
        self._children: dict[int, tuple[int, Asked]] = {}
        self._asking = threading.Lock()
        self._ending = False
        self._count = count

    def start(self) -> None:
        gc.collect()
        gc.freeze()  # existing objects stay in shared pages, which the collector does not touch
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._end)
        for number in range(self._count):
            self._start(number)

    def wait(self) -> int:
        """Waits for SIGTERM or SIGINT and the end of all children. A second signal kills them. 0: all ended well."""
        worst = 0
        while self._children:
            pid, status = os.wait()
            number, child = self._children.pop(pid)
            child.connection.close()
            code = os.waitstatus_to_exitcode(status)
            if self._ending:
                worst = worst or code
            else:
                _log.error("api_process_ended", number=number, status=code)
                time.sleep(RESTART_SECONDS)
                if not self._ending:
                    self._start(number)
        return worst

    def metrics(self) -> Iterator[bytes]:
        """Each child's metrics, in Prometheus' text format."""
        with self._asking:
            for _, child in list(self._children.values()):
                try:
                    yield child.latest()
                except OSError:  # the child is ending, or too busy
                    continue

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        parent = os.getpid()
        sys.stderr.flush()
        if pid := os.fork():
            theirs.close()
            self._children[pid] = (number, Asked(ours))
            return
        status = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on a terminal goes to all; the parent passes it on
            for _, child in self._children.values():
                child.connection.close()
            ours.close()
            status = self._serve(number, theirs)
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _end(self, *_: object) -> None:
        told = signal.SIGKILL if self._ending else signal.SIGTERM
        self._ending = True
        for pid in self._children:
            os.kill(pid, told)


def answer_for_metrics(connection: socket.socket, latest: Callable[[], bytes]) -> None:
    """In a child: answers the parent's requests for metrics, in a thread."""

    def answer() -> None:
        while connection.recv(1):
            text = latest()
            connection.sendall(_LENGTH.pack(len(text)) + text)

    threading.Thread(target=answer, daemon=True).start()


def summed(texts: Iterable[bytes]) -> Iterator[Metric]:
    """The children's metrics as one: counts, times and sizes are added, and all else is the first child's."""
    families: dict[str, Metric] = {}
    totals: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                key = (family.name, sample.name, tuple(sorted(sample.labels.items())))
                if key not in totals or not _ADDS_UP(sample.name):
                    totals.setdefault(key, sample.value)
                else:
                    totals[key] += sample.value
    for (name, sample_name, labels), value in totals.items():
        families[name].add_sample(sample_name, dict(labels), value)
    yield from families.values()
