"""When a tenant to which nothing has to be done is looked at again."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from media_core.store.credentials import S3Key
from media_operator.backends.store_keys import Session
from media_operator.controller.controller import Controller, _seconds_like_this
from media_operator.plan.planner import Plan
from media_operator.settings import OperatorSettings
from media_operator.tenant.status import Condition
from tests.unit.operator.render_cases import CASES

DAY = 86400.0
READY = Condition(type="Ready", status="True", reason="Serving", message="", observedGeneration=1)


def next_look(
    *,
    session_ends_in: float | None = None,
    life: float = 3600,
    starting: float | None = None,
    ready: Condition = READY,
    lasted: float = 0,
) -> float:
    cluster = MagicMock(operator=OperatorSettings(resync_seconds=DAY, canary_seconds=DAY))
    cluster.jobs.starting.return_value = {} if starting is None else {"scan": starting}
    controller = Controller(cluster, MagicMock())
    session = None
    if session_ends_in is not None:
        ends = datetime.now(UTC) + timedelta(seconds=session_ends_in)
        session = Session(S3Key("ASIA", "s", "t", ends), ends - timedelta(seconds=life), "arn")
    children = cast(Any, SimpleNamespace(session=session))
    return controller._next_look(CASES["role"].tenant(), Plan((), True, (ready,)), children, lasted)


def test_it_is_looked_at_now_and_then() -> None:
    assert 0.8 * DAY <= next_look() <= DAY


@pytest.mark.parametrize(("ends_in", "life", "expected"), [(3600, 3600, 1800), (2000, 3600, 200), (900, 900, 300)])
def test_the_look_at_a_temporary_key_comes_in_time(ends_in: float, life: float, expected: float) -> None:
    assert next_look(session_ends_in=ends_in, life=life) == pytest.approx(expected, abs=10)


def test_what_is_overdue_is_looked_at_soon_and_not_without_a_pause() -> None:
    assert next_look(session_ends_in=10) == 1
    assert next_look(starting=1000) == 1


@pytest.mark.parametrize(("lasted", "expected"), [(0, 5), (100, 10), (86400, 30)])
def test_the_longer_a_tenant_is_not_ready_the_later_it_is_looked_at(lasted: float, expected: float) -> None:
    starting = READY.model_copy(update={"status": "False", "reason": "ApiStarting"})
    assert expected <= next_look(ready=starting, lasted=lasted) <= 2 * expected


def test_how_long_that_has_lasted_is_in_its_status() -> None:
    since = (datetime.now(UTC) - timedelta(seconds=100)).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "False", "reason": "ApiStarting", "message": "", "observedGeneration": 1}
    body = {"status": {"conditions": [{**ready, "lastTransitionTime": since}]}}
    assert _seconds_like_this(body) == pytest.approx(100, abs=10)
    assert _seconds_like_this({}) == _seconds_like_this({"status": {"conditions": [ready]}}) == 0
