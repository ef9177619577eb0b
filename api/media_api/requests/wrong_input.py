"""Sentences about a wrong parameter, or a wrong member of a JSON body: what it must be, and its limits.

pydantic finds what is wrong. Its own words are for programmers, and name one limit of two.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, TypedDict

from annotated_types import Ge, Le, MaxLen, MinLen
from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute
from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from media_core.errors import Refused

MAX_SHOWN_CHARACTERS: Final = 64
TIME: Final = "it must be an RFC 3339 time such as 2026-05-17T14:00:00Z; in a query `+` is written `%2B`"

INDEX: Final = re.compile(r"\[[0-9]{0,9}\]$")
"""What clients put behind the name of a list: PHP, Ruby, axios."""

_NEUTRAL: Final = frozenset(
    {"cachebust", "cachebuster", "cb", "nocache", "rnd", "t", "ts", "v", "fbclid", "gclid", "msclkid"}
)
"""What clients, proxies and links add to any address, beside `_…` and `utm_…`. It says nothing of what is wanted."""
_TYPES: Final[Mapping[str, str]] = {
    "missing": "it is needed",
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "string_type": "it must be a text",
    "string_unicode": "it must be a text in UTF-8",
    "list_type": "it must be a list",
    "dict_type": "it must be an object",
    "model_type": "it must be an object",
    "string_pattern_mismatch": "it must be a text without NUL",  # the only pattern that a parameter has
}
_WHOLE: Final = frozenset({"int_type", "int_parsing", "int_parsing_size", "int_from_float"})
_NUMBERS: Final = frozenset(
    {"float_type", "float_parsing", "finite_number", "greater_than_equal", "less_than_equal", *_WHOLE}
)


class Wrong(TypedDict):
    """`where`: the parameter or member. `what`: the sentence, without its full stop. What was sent is not repeated."""

    where: str
    what: str


def of_request(request: Request, errors: Iterable[ErrorDetails]) -> list[Wrong]:
    """What is wrong with a request's parameters."""
    fields = {field.alias: field.field_info for field in get_flat_params(_parameters(request))}
    # The first part says where the parameter stands; a number after the name says which of several values it is.
    return [{"where": str(each["loc"][1]), "what": _said(each, fields, each["loc"][1:])} for each in errors]


def of_members(fields: Mapping[str, FieldInfo], errors: Iterable[ErrorDetails]) -> list[Wrong]:
    """What is wrong with the members of a body whose model has these fields."""
    return [
        {"where": ".".join(map(str, each["loc"])), "what": _said(each, fields, each["loc"])}
        for each in errors
        if each["loc"]
    ]


def told(wrong: Iterable[Wrong]) -> str:
    return " ".join(f"{each['where']}: {each['what']}{'' if each['what'].endswith('?') else '.'}" for each in wrong)


def refused(where: str, what: str, said: str | None = None, **facts: Any) -> Refused:
    """For one parameter or field. `said`: the whole sentence, where it is another than `told` makes."""
    wrong = [Wrong(where=where[:MAX_SHOWN_CHARACTERS], what=what)]
    return Refused("invalid_request", said or told(wrong), errors=wrong, **facts)


def require_known(request: Request) -> None:
    """Refuses a query parameter that a call does not know, the second of one that it takes once, and what is not UTF-8.

    Passed over, each would give or do something else than was asked for.

    Raises Refused `invalid_request`.
    """
    if not (sent := request.query_params.multi_items()):
        return
    several = {
        field.alias: str(field.field_info.annotation).startswith("list")
        for field in get_flat_params(_parameters(request))
        if isinstance(field.field_info, Query)
    }
    seen: set[str] = set()
    for name, value in sent:
        if name not in several:
            if name in _NEUTRAL or name.startswith(("_", "utm_")):
                continue
            what, one = "a query parameter of this call", INDEX.sub("", name)
            is_list = several.get(one, False)
            said = (
                f"`{name}` is not {what}; send `{one}` once for each value."
                if is_list
                else unknown(name, several, what)
            )
            raise refused(name, said.rstrip("."), said)
        if name in seen and not several[name]:
            raise refused(name, "it was sent twice; this call takes it once")
        # The parser puts U+FFFD in the place of what is not UTF-8.
        if "\ufffd" in value and "%ef%bf%bd" not in request.url.query.lower():
            raise refused(name, _TYPES["string_unicode"])
        seen.add(name)


def unknown(name: str, known: Collection[str], what: str) -> str:
    """A sentence for a name that is not `what`, such as "a field of this form": the nearest, or all that it has."""
    called = f"`{name}`" if name.isprintable() and 0 < len(name) <= MAX_SHOWN_CHARACTERS else "That"
    near = difflib.get_close_matches(name[:MAX_SHOWN_CHARACTERS].lower(), known, n=1)
    has = ", ".join(f"`{field}`" for field in known) or "none"
    hint = f"did you mean `{near[0]}`?" if near else f"it has {has}."
    return f"{called} is not {what}; {hint}"


def _parameters(request: Request) -> Dependant:
    """Those of the request's route."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)  # noqa: S101 (no other route has parameters that are checked)
    return route.dependant


def _said(error: ErrorDetails, fields: Mapping[str, FieldInfo], where: tuple[int | str, ...]) -> str:
    kind, facts = error["type"], error.get("ctx", {})
    # `fields` has the limits of a list or an object. Those of its entries are in `facts` alone.
    field = fields.get(str(where[0])) if len(where) == 1 else None
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in _NUMBERS:
        is_whole = kind in _WHOLE or (field is not None and "float" not in str(field.annotation))
        return f"it must be a {'whole ' if is_whole else ''}number{_bounds(field)}"
    match kind:
        case "literal_error" | "enum":
            return f"it must be {facts['expected'].replace(chr(39), '')}"
        case "string_too_short" | "string_too_long":
            most = _limit(field, MaxLen, "max_length") or facts.get("max_length")
            return f"it must have {_between(_limit(field, MinLen, 'min_length'), most)} characters"
        case "too_short" | "too_long":
            between = _between(_limit(field, MinLen, "min_length"), _limit(field, MaxLen, "max_length"))
            return f"it must have {between} entries"
        case "extra_forbidden":
            if (called := _other_name_of(where[-1], fields)) is not None:
                return f"it is another name of `{called}`; send one of the two"
            return unknown(str(where[-1]), list(fields), "a member of this body").rstrip(".")
        case "value_error":
            return error["msg"].removeprefix("Value error, ")
        case _ if kind.startswith(("datetime", "timezone")):
            return TIME
    return error["msg"]


def _other_name_of(sent: int | str, fields: Mapping[str, FieldInfo]) -> str | None:
    """The field that takes this name too, and was sent under its own as well."""
    for name, field in fields.items():
        if isinstance(field.validation_alias, AliasChoices) and sent in field.validation_alias.choices:
            return name
    return None


def _limit(field: FieldInfo | None, kind: type, name: str) -> Any:
    """That the field has of this kind; None if it has none."""
    return next((getattr(each, name) for each in (field.metadata if field else ()) if isinstance(each, kind)), None)


def _bounds(field: FieldInfo | None) -> str:
    least, most = _limit(field, Ge, "ge"), _limit(field, Le, "le")
    if least is None and most is None:
        return ""
    return f"{' from' if None not in (least, most) else ','} {_between(least, most)}"


def _between(least: Any, most: Any) -> str:
    if least is None:
        return f"at most {most}"
    return f"at least {least}" if most is None else f"{least} to {most}"
