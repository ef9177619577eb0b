"""Says in pytest's last lines which tiers ran, and why one did not."""

from collections import Counter, defaultdict

import pytest

TIERS = ("unit", "integration", "control plane", "node")
MARKED = {"control_plane": "control plane", "node": "node"}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Tiers(), "tiers")


class _Tiers:
    def __init__(self) -> None:
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        tier = tier_of(report)
        self._outcomes[tier][report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self._reasons[tier][report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
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
        return f"ran {ran}{failed}{skipped}"


def tier_of(report: pytest.TestReport) -> str:
    for marker, tier in MARKED.items():
        if marker in report.keywords:
            return tier
    folder = report.nodeid.split("/")[1] if "/" in report.nodeid else ""
    return folder if folder in TIERS else "integration"
