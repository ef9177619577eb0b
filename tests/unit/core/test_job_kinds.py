"""The table of job kinds names existing handlers and columns."""

import pkgutil

import pytest

from media_core.jobs.kinds import JOB_KINDS, JobKind
from media_core.tables.policy import POLICY


@pytest.mark.parametrize("kind", JOB_KINDS.values(), ids=str)
def test_each_kind_has_a_handler_and_a_switch_that_are_there(kind: JobKind) -> None:
    assert callable(pkgutil.resolve_name(kind.handler))
    assert kind.switch is None or kind.switch in POLICY.columns
