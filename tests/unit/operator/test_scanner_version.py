"""The age of clamd's signatures, from the line with its version."""

from datetime import UTC, datetime, timedelta

import pytest

from media_operator.backends import scanner_version
from media_operator.backends.scanner_version import ScannerVersion, built_at


@pytest.mark.parametrize(
    ("version", "built"),
    [
        ("ClamAV 1.4.6/27444/Mon Nov 23 10:00:00 2026", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("ClamAV 1.4.6/27421/Sun Nov  1 08:25:11 2026\n", datetime(2026, 11, 1, 8, 25, 11, tzinfo=UTC)),
        ("ClamAV 1.5.0-rc/1/Thu Feb 29 23:59:59 2024", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
    ],
    ids=["two digits", "padded day", "leap day"],
)
def test_the_time_at_which_the_signatures_were_built_is_read_as_utc(version: str, built: datetime) -> None:
    assert built_at(version) == built


@pytest.mark.parametrize(
    "version",
    [
        "ClamAV 1.4.6",
        "ClamAV 1.4.6/27444",
        "ClamAV 1.4.6/27444/Mo 23. Nov 2026 10:00:00",
        "ClamAV 1.4.6/27444/Mon Mär 23 10:00:00 2026",
        "ClamAV 1.4.6/27444/Tue Feb 31 10:00:00 2026",
        "ClamAV 1.4.6/27444/Mon Nov 23 25:00:00 2026",
        "ClamAV 1.4.6/27444/Mon Nov ٢٣ 10:00:00 2026",
        "UNKNOWN COMMAND",
        "",
    ],
)
def test_a_version_without_a_time_that_can_be_read_is_of_unknown_age(version: str) -> None:
    assert built_at(version) is None


async def test_signatures_from_a_clock_that_is_ahead_are_new_and_not_younger_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask(host: str, port: int) -> str:
        return f"ClamAV 1.4.6/27444/{datetime.now(UTC) + timedelta(hours=2):%a %b %d %H:%M:%S %Y}"

    monkeypatch.setattr(scanner_version, "ask", ask)
    scanner = ScannerVersion("clamd", 3310)
    assert (scanner.up, scanner.age()) == (None, None)
    await scanner.look()
    assert (scanner.up, scanner.age()) == (True, 0)
