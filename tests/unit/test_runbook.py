"""docs/runbook.md explains each reason that a condition can have, under that condition.

No run has all reasons, so they are read from the source. A reason is made in one of three ways:
- A check of `media_core.plan` makes a Finding with it, or passes it to `attempt`.
- `attempt` makes `<Step>Failed` for each step of a check, and `waiting_for` makes `WaitingFor<condition>`.
- The operator makes it in a StepFailed, a Scanner or a Condition.
This test fails for a reason that is made in another way.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from media_core import plan

ROOT = Path(__file__).parents[2]
SHARED = "Any condition"
"""The section of reasons that several conditions share."""
SAID_BY = {check.__name__: condition for condition, check in plan.CHAIN} | {
    plan.birth_to_write.__name__: "DatabaseReady",
    plan.canary.__name__: "ScannerReady",
    plan.deletion.__name__: "DeletionBlocked",
    plan.plan_deletion.__name__: "Ready",
    plan.ready.__name__: "Ready",
}
"""Function of `media_core.plan` -> the condition that it finds."""
GENERIC = {plan.attempt.__name__, plan.Case.waiting_for.__name__}
STEPS = {step.__name__ for step in get_args(plan.Step)}
REASON_AT = {
    "Finding": 1,
    "attempt": 2,
    "Scanner": 1,
    "StepFailed": 1,
    "Failure": 1,
    "Condition": None,
    "replace": None,
}
"""Callables with a reason -> its place among the arguments; None: by name only."""


def test_every_reason_of_a_condition_is_explained_under_it() -> None:
    explained, said, of_steps = rows(), reasons_by_condition(), reasons_of_the_operator()
    anywhere = set().union(*explained.values())
    missing = {name: found - explained[name] - explained[SHARED] for name, found in said.items()}
    assert {name: found for name, found in missing.items() if found} == {}
    assert of_steps - anywhere == set()


def test_no_row_explains_a_reason_that_its_condition_never_has() -> None:
    explained, said, of_steps = rows(), reasons_by_condition(), reasons_of_the_operator()
    anywhere = of_steps.union(*said.values())
    stale = {name: found - said[name] - of_steps for name, found in explained.items() if name != SHARED}
    assert {name: found for name, found in stale.items() if found} == {}
    assert explained[SHARED] - anywhere == set()


def test_a_reason_that_cannot_be_read_from_the_source_is_refused() -> None:
    with pytest.raises(AssertionError, match="line 1: a reason that is no constant"):
        list(said_in(ast.parse("Finding('False', spell('Odd'), 'words')")))


def rows() -> dict[str, set[str]]:
    """Condition, or SHARED -> the reasons in the first column of its section's table."""
    found: dict[str, set[str]] = defaultdict(set)
    section = ""
    for line in (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| `") and section in {SHARED, *SAID_BY.values()}:
            found[section] |= set(re.findall(r"`(\w+)`", line.split("|")[1]))
    return found


def reasons_by_condition() -> dict[str, set[str]]:
    """The reasons by condition, from `media_core.plan` and the judgement of the scanner."""
    found: dict[str, set[str]] = defaultdict(set)
    for function in ast.walk(_parsed(Path(plan.__file__))):
        if not isinstance(function, ast.FunctionDef) or function.name in GENERIC:
            continue
        reasons = {reason for _, reason in said_in(function)}
        assert function.name in SAID_BY or not reasons, f"{function.name} finds a condition: name it in SAID_BY"
        if function.name in SAID_BY:
            found[SAID_BY[function.name]] |= reasons
    found["ScannerReady"] |= {reason for maker, reason in _said_by_the_operator() if maker == "Scanner"}
    return found


def reasons_of_the_operator() -> set[str]:
    """The operator's reasons. A failed step's reason may be in the condition of any check that asks for the step."""
    return {reason for maker, reason in _said_by_the_operator() if maker != "Scanner"}


def _said_by_the_operator() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "operator" / "media_operator").rglob("*.py")):
        yield from said_in(_parsed(path))


def said_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Pairs of a callable and a reason. Raises AssertionError for a reason that the source does not show."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        maker = ast.unparse(call.func).rpartition(".")[2]
        if maker in STEPS:
            yield maker, f"{maker}Failed"
        elif maker == "waiting_for":
            for name in call.args:
                yield from ((maker, f"WaitingFor{each.removesuffix('Ready')}") for each in _values(name, tree))
        elif maker in REASON_AT:
            place = REASON_AT[maker]
            given = [] if place is None else call.args[place : place + 1]
            given += [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
            for each in given:
                yield from ((maker, reason) for reason in _values(each, tree))


def _values(said: ast.expr, tree: ast.AST) -> Iterator[str]:
    match said:
        case ast.Constant(str(value)):
            yield value
        case ast.IfExp():
            yield from _values(said.body, tree)
            yield from _values(said.orelse, tree)
        case ast.Attribute(attr="reason"):
            pass  # passed on: it was found where it was made
        case ast.Name() if looped := list(_looped_over(said.id, tree)):
            for each in looped:
                yield from _values(each, tree)
        case _:
            raise AssertionError(f"line {said.lineno}: a reason that is no constant: {ast.unparse(said)}")


def _looped_over(name: str, tree: ast.AST) -> Iterator[ast.expr]:
    """The values of `name` in `for name, other in ((1, 2), (3, 4))`."""
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For) and isinstance(loop.target, ast.Tuple) and isinstance(loop.iter, ast.Tuple):
            names = [target.id for target in loop.target.elts if isinstance(target, ast.Name)]
            if name in names:
                place = names.index(name)
                yield from (turn.elts[place] for turn in loop.iter.elts if isinstance(turn, ast.Tuple))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
