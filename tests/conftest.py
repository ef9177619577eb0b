"""Which tests run beside which; of each tier, how many ran, how long, and why one did not.

`make test` runs several worker processes (pytest-xdist). The tests of a file run in one process, in their order, since
they share servers. So do all tests on kind, which share its one cluster.
"""

import gc
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Container, Generator
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import structlog
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Until all is collected, see `pytest_collection_finish`.
gc.disable()
# As in the Makefile. The tests start hundreds of processes, and each would compile all of its modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A Kubernetes API server takes a fifth less of a CPU if Go collects its garbage later, and a few hundred MiB more.
os.environ.setdefault("GOGC", "400")
# Threads of NumPy's library wait for each other busily, where other tests need the CPU.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# On AMD's Zen 4 NumPy sorts with AVX-512 for five times as long as with AVX2.
os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4 AVX512_ICL AVX512_SPR")

# A busy machine is no failure of a property.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

# rich's takes 20 ms for each exception that is logged.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

TIERS = ("unit", "integration", "browser", "control plane", "node")
MARKED = {"control_plane": "control plane", "node": "node"}
ORDER = ("node", "control plane", "browser", "integration", "unit")
"""The tests that wait the most begin first, so that the others fill the time."""
LONG = "/whole/"
"""In its folder are the longest files. At the end each would run by itself."""
SLOWEST = 10


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background commands with SIGINT ignored. Children inherit that, and Ctrl-C would not reach them.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(_Tiers(config), "tiers")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """A library that changes our priority would make tests that come later slow, or hang. It is told at once."""
    if not hasattr(os, "sched_getscheduler"):
        return (yield)
    policy = os.sched_getscheduler(0)
    result = yield
    assert os.sched_getscheduler(0) == policy, "the test has changed the scheduling policy of this process"
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    gc.freeze()  # here, in the process that hands them out, nothing is collected
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (ORDER.index(_tier(item.keywords, item.nodeid)), LONG not in item.nodeid))


def pytest_collection_finish() -> None:
    """What was imported and collected stays, so the collector of garbage need not look through it again and again."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000)  # with 700, as by default, a twentieth of our time goes into that


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run that broke off has nothing for `make test-again`, which would run a part of it only."""
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if not ended and not hasattr(session.config, "workerinput"):
        session.config.cache.set("cache/lastfailed", {})


class _ByFile(LoadScopeScheduling):
    """Hands out a file at a time, and all files of the node tier to one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "node" if _is_on_kind(self.config.rootpath / file) else file


@cache
def _is_on_kind(file: Path) -> bool:
    return "pytestmark = pytest.mark.node\n" in file.read_text()


class _Tiers:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: Counter[str] = Counter()
        self._tests: Counter[str] = Counter()

    @property
    def _terminal(self) -> pytest.TerminalReporter | None:
        return self._config.pluginmanager.getplugin("terminalreporter")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        tier = _tier(report.keywords, report.nodeid)
        self._seconds[tier] += report.duration
        self._tests[report.nodeid] += report.duration
        if report.failed and self._terminal is not None:
            # At once: the whole report comes at the end, half an hour later.
            crash = getattr(report.longrepr, "reprcrash", None)
            words = str(crash.message if crash else report.longrepr).strip().splitlines() or [""]
            self._terminal.write_line(f"\nFAILED {report.nodeid}: {words[0][:300]}")
        if report.when != "call" and report.passed:
            return
        self._outcomes[tier][report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self._reasons[tier][report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if len(self._tests) > SLOWEST:
            terminalreporter.section("slowest")
            for test, seconds in self._tests.most_common(SLOWEST):
                terminalreporter.write_line(f"{seconds:6.1f} s  {test}")
        terminalreporter.section("tiers")
        for tier in TIERS:
            terminalreporter.write_line(f"{tier + ':':15}{self._sentence(tier)}")

    def _sentence(self, tier: str) -> str:
        outcomes = self._outcomes[tier]
        ran = outcomes["passed"] + outcomes["failed"]
        reasons = "; ".join(reason for reason, _ in self._reasons[tier].most_common())
        if not outcomes:
            return "not asked for"
        if not ran:
            return f"did not run: {reasons}"
        failed = f", {outcomes['failed']} failed" if outcomes["failed"] else ""
        skipped = f", {outcomes['skipped']} skipped: {reasons}" if outcomes["skipped"] else ""
        return f"ran {ran} in {self._seconds[tier]:.0f} s{failed}{skipped}"


def _tier(keywords: Container[str], nodeid: str) -> str:
    for marker, tier in MARKED.items():
        if marker in keywords:
            return tier
    folder = nodeid.split("/")[1] if "/" in nodeid else ""
    return folder if folder in TIERS else "integration"
