"""The hooks of .pre-commit-config.yaml run what `make check` runs, and fetch nothing."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
REPOSITORIES: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
HOOKS: list[dict[str, Any]] = [hook for repository in REPOSITORIES for hook in repository["hooks"]]


def _targets(name: str) -> list[str]:
    """What `make name` runs itself: its recipe's lines."""
    found = re.search(rf"^{name}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return found[1].splitlines() if found else []


def test_no_hook_comes_from_elsewhere() -> None:
    assert [repository["repo"] for repository in REPOSITORIES] == ["local"]
    assert {hook["language"] for hook in HOOKS} == {"system"}


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_the_command_of_a_hook_is_there(hook: dict[str, Any]) -> None:
    program, *arguments = shlex.split(hook["entry"])
    if program == "make":
        (target,) = (each for each in arguments if not each.startswith("-"))
        assert _targets(target), f"the Makefile has no target {target}"
        assert hook["pass_filenames"] is False, "make would take the files for targets"
    else:
        folder, name = program.rsplit("/", 1)
        assert folder == ".venv/bin"
        assert (Path(sys.executable).parent / name).exists(), f"`make setup` installs no {name}"


def test_what_make_check_runs_is_a_hook() -> None:
    checked = set(re.findall(r"\b(lint|types|contracts)\b", " ".join(_targets("check"))))
    assert checked == {"lint", "types", "contracts"}
    assert checked < {hook["id"] for hook in HOOKS}
    said = " ".join(hook["entry"] for hook in HOOKS)
    for command in re.findall(r"\$\(BIN\)/(ruff \w+)", " ".join(_targets("lint"))):
        assert command in said
