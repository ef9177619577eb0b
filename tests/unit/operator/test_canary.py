"""What a canary's outcome says of the scanner, and what a canary consists of."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from media_core.contents.life import Facts
from media_core.decoding import BytesSource
from media_core.examination.examiner import Examined
from media_core.examination.sniffing import sniff
from media_core.upkeep.canary import EICAR, PlainText, new_content
from media_operator.backends.scanner_canary import Canary, State, judge
from media_operator.plan.observed import Scanner

NOON = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
HOUR = 3600.0
ENGINE = "ClamAV 1.4.3/27500/Sun Mar  1 08:25:11 2026"


def judged(latest: Canary | None, seconds: float = 0) -> Scanner:
    """The judgement `seconds` after the canary was sent. One is sent every hour, and has ten minutes."""
    sent = None if latest is None else replace(latest, age=latest.age + seconds)
    return judge(sent, every=HOUR, timeout=600)


def canary(state: State, detail: str = "", before: Canary | None = None) -> Canary:
    return Canary(NOON, 0, state, detail, ENGINE if state in ("found", "missed") else None, before)


def test_every_canary_is_another_content_within_the_definition_of_eicar() -> None:
    contents = {new_content() for _ in range(100)}
    assert len(contents) == 100
    for content in contents:
        assert content.startswith(EICAR)
        assert len(content) <= 128
        assert not content.removeprefix(EICAR).strip(b" \t\r\n\x1a")


def test_without_any_canary_nothing_is_known_and_one_is_due() -> None:
    scanner = judged(None)
    assert (scanner.status, scanner.reason, scanner.canary_due) == ("Unknown", "CanaryPending", True)


@pytest.mark.parametrize(
    ("state", "seconds", "status", "reason"),
    [
        ("pending", 599, "Unknown", "CanaryPending"),
        ("pending", 600, "False", "CanaryOverdue"),
        ("found", 1, "True", "CanaryFound"),
        ("missed", 1, "False", "CanaryMissed"),
        ("failed", 1, "False", "CanaryFailed"),
    ],
)
def test_its_fate_is_the_scanners_condition(state: State, seconds: float, status: str, reason: str) -> None:
    scanner = judged(canary(state), seconds)
    assert (scanner.status, scanner.reason) == (status, reason)


@pytest.mark.parametrize(
    ("state", "due_after"), [("found", HOUR), ("missed", HOUR / 12), ("failed", HOUR / 12), ("pending", HOUR)]
)
def test_the_next_one_comes_on_schedule_and_sooner_after_one_that_was_not_found(state: State, due_after: float) -> None:
    assert not judged(canary(state), due_after - 1).canary_due
    assert judged(canary(state), due_after).canary_due


def test_while_one_is_under_way_the_one_before_it_is_what_is_known() -> None:
    before = Canary(NOON - timedelta(hours=1), HOUR, "missed", "", ENGINE)
    scanner = judged(canary("pending", before=before), 5)
    assert (scanner.status, scanner.reason, scanner.canary_due) == ("False", "CanaryMissed", False)
    assert judged(canary("pending", before=before), 700).reason == "CanaryOverdue"


@pytest.mark.parametrize("state", ["pending", "found", "missed", "failed"])
def test_what_is_said_does_not_change_with_time_alone(state: State) -> None:
    assert judged(canary(state), 1).detail == judged(canary(state), 500).detail


def test_what_is_said_names_the_time_and_the_signatures() -> None:
    assert judged(canary("found")).detail == f"clamd ({ENGINE}) found the test virus sent at 2026-03-01 12:00 UTC"


async def test_its_type_is_the_one_that_its_bytes_have() -> None:
    content = new_content()
    known = await PlainText().examine(BytesSource(content), content, "canary.txt", None)
    assert known == Examined(Facts(len(content), sniff(content, "canary.txt")))
