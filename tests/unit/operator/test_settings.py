"""What is wrong in the operator's settings is said by the variable that a person sets."""

from typing import Any

import pytest
from pydantic import ValidationError

from media_core.settings import complaints
from media_operator.settings import PlatformSettings


@pytest.mark.parametrize(
    ("variable", "value", "lines"),
    [
        (
            "TOLERATIONS",
            '[{"key": "gpu"}, {"key": "gpu", "effect": "NoSchdule"}, {"value": "x"}]',
            [
                ": entry 1, effect: it must be '', 'NoSchedule', 'PreferNoSchedule' or 'NoExecute'",
                ": entry 2: must be set unless operator is Exists",
            ],
        ),
        ("INGRESS_ANNOTATIONS", '{"a": 1}', [": a: it must be a text"]),
        ("SWEEP_RESOURCES", '{"requsts": {}}', [": requsts: it is not known here"]),
        ("RUN_AS_USER", "root", [": it must be a whole number or it must be 'cluster'"]),
        ("GATEWAY_REQUEST_TIMEOUT", "soon", [": it must match the pattern '^([0-9]{1,5}(h|m|s|ms)){0,4}$'"]),
        ("LABELS", '{"BAD KEY": "x"}', [": BAD KEY: it must match the pattern "]),
    ],
)
def test_what_is_wrong_within_a_variable_is_told_beside_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, lines: list[str]
) -> None:
    monkeypatch.setenv(f"MEDIA_OPERATOR_{variable}", value)
    needed: dict[str, Any] = {"api_image": "api", "worker_image": "workers", "clamd_host": "clamd"}
    with pytest.raises(ValidationError) as raised:
        PlatformSettings(**needed)
    found = complaints(raised.value)
    assert len(found) == len(lines)
    for line, begins in zip(found, lines, strict=True):
        assert line.startswith(f"MEDIA_OPERATOR_{variable}{begins}")
