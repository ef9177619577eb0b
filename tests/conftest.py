"""Which tests run beside which; of each tier, how many ran, how long, and why one did not.

`make test` runs several worker processes (pytest-xdist, `--dist loadgroup`). All tests of one group run in one process,
in their order: the tests of a file share its servers, and the tests on kind share its one cluster.
"""

import signal
from collections import Counter, defaultdict
from collections.abc import Container

import pytest

TIERS = ("unit", "integration", "control plane", "node")
MARKED = {"control_plane": "control plane", "node": "node"}
ORDER = ("node", "control plane", "integration", "unit")
"""The tests that wait the most begin first, so that the others fill the time."""
SLOWEST = 10


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background commands with SIGINT ignored. Children inherit that, and Ctrl-C would not reach them.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(_Tiers(), "tiers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.hasplugin("dsession") and not hasattr(config, "workerinput"):
        return  # one process: in the order of the files
    for item in items:
        tier = _tier(item.keywords, item.nodeid)
        item.add_marker(pytest.mark.xdist_group("node" if tier == "node" else item.path.stem))
    items.sort(key=lambda item: ORDER.index(_tier(item.keywords, item.nodeid)))


class _Tiers:
    def __init__(self) -> None:
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: Counter[str] = Counter()
        self._tests: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        tier = _tier(report.keywords, report.nodeid)
        self._seconds[tier] += report.duration
        self._tests[report.nodeid.partition("@")[0]] += report.duration
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
