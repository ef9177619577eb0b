"""docs/runbook.md explains each reason that a condition can have, under that condition.

No run meets all of them, so they are read from the source, where a reason is said in one of three ways:
- a check of `media_operator.plan` makes a Finding of it or hands it to `attempt`;
- `attempt` says `<Step>Failed` of each step that a check makes, `waiting_for` says `WaitingFor<condition>`;
- the operator says of what a step failed (StepFailed), what the scanner is (Scanner), or makes a Condition itself.
A reason that is put together in any other way is none that this finds, and fails.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from media_operator.plan import checks, data_consistent, data_match, deletion, finding, planner, steps

ROOT = Path(__file__).parents[3]
OPERATOR = ROOT / "operator" / "media_operator"
PLAN = OPERATOR / "plan"
SHARED = "Any condition"
"""The section of what several conditions say."""
SAID_BY = {check.__name__: condition for condition, check in checks.CHECKS} | {
    data_match.birth_to_write.__name__: "DatabaseReady",
    checks.canary.__name__: "ScannerReady",
    checks._renewal.__name__: "StoreKeyReady",
    data_consistent._of_orphans.__name__: "DataConsistent",
    deletion.deletion.__name__: "DeletionBlocked",
    planner.plan_deletion.__name__: "Ready",
    planner.waiting_to_go.__name__: "Ready",
    planner.ready.__name__: "Ready",
}
"""Function of `media_operator.plan` -> the condition that it finds."""
GENERIC = {finding.attempt.__name__, finding.Context.waiting_for.__name__}
STEPS = {step.__name__ for step in get_args(steps.Step)}
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
    """As `media_operator.plan` and whoever judges the scanner say them."""
    found: dict[str, set[str]] = defaultdict(set)
    for function in (node for path in sorted(PLAN.glob("*.py")) for node in ast.walk(_parsed(path))):
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


@cache
def _said_by_the_operator() -> set[tuple[str, str]]:
    elsewhere = (path for path in OPERATOR.rglob("*.py") if path.parent != PLAN)
    return {said for path in elsewhere for said in said_in(_parsed(path))}


def said_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Pairs of a callable and a reason. Raises AssertionError for a reason that the source does not show."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        maker = getattr(call.func, "attr", getattr(call.func, "id", ""))
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
