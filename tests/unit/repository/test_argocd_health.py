"""docs/argocd-health.lua, run by a Lua interpreter as Argo CD does: `obj` is the MediaTenant, a table comes back."""

from pathlib import Path
from typing import Any

import pytest

lupa = pytest.importorskip("lupa")

SCRIPT = Path(__file__).parents[3] / "docs" / "argocd-health.lua"


def health(body: dict[str, Any]) -> str:
    """The status; every answer has a message too."""
    lua = lupa.LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(body, recursive=True)
    answer = lua.execute(SCRIPT.read_text(encoding="utf-8"))
    assert answer.message
    return str(answer.status)


def tenant(status: str, reason: str, *, seen: int = 3, **metadata: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": status, "reason": reason, "message": "why", "observedGeneration": seen}
    accepted = {**condition, "type": "Accepted", "status": "True"}
    return {"metadata": {"generation": 3, **metadata}, "spec": {}, "status": {"conditions": [accepted, condition]}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (tenant("True", "Serving"), "Healthy"),
        (tenant("False", "BucketForeign"), "Degraded"),
        (tenant("False", "CrashLoop"), "Degraded"),
        (tenant("Unknown", "DatabaseUnknown"), "Progressing"),
        (tenant("False", "CanaryPending"), "Progressing"),
        (tenant("False", "Suspended"), "Suspended"),
        (tenant("True", "Paused", seen=2), "Suspended"),
        (tenant("Unknown", "Paused"), "Suspended"),
        (tenant("True", "Serving", seen=2), "Progressing"),
        (tenant("True", "Serving", deletionTimestamp="2026-01-01T00:00:00Z"), "Progressing"),
        ({"metadata": {"generation": 1}, "spec": {}}, "Progressing"),
        ({"metadata": {"generation": 1}, "status": {}}, "Progressing"),
        ({"metadata": {"generation": 1}, "status": {"conditions": []}}, "Progressing"),
    ],
)
def test_argo_cd_says_what_the_operator_says(body: dict[str, Any], said: str) -> None:
    assert health(body) == said


def test_the_installation_page_names_the_script() -> None:
    page = (SCRIPT.parent / "install.md").read_text(encoding="utf-8")
    assert f"({SCRIPT.name})" in page
