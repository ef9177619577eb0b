"""What is wrong in a manifest, in sentences for its author, with the field as the author wrote it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from media_operator.tenant.patterns import FORMS
from media_operator.tenant.status import TenantStatus


@dataclass(frozen=True)
class FieldError:
    """`path`: as in a manifest (`spec.quota.maxStorageMb`); `sentence`: what is wrong there."""

    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}" if self.path else self.sentence


class SpecInvalid(Exception):
    """A manifest that is not a valid MediaTenant."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


def field_error(details: ErrorDetails, model: type[BaseModel]) -> FieldError:
    """pydantic's error about a document that should be a `model`."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in details["loc"] if part != "[key]")
    if details["type"].startswith("field:"):  # a rule over two fields; this is the one to change
        path += "." + details["type"].removeprefix("field:")
    return FieldError(path.removeprefix("."), sentence(details, _model_at(model, details["loc"][:-1])))


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    for part in location:
        field = next((field for field in model.model_fields.values() if field.alias == part), None)
        if field is None:
            continue
        model = _model_of(field) or model
    return model


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """What an object in this field is, or in the list that it has."""
    inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
    return next((kind for kind in inner if issubclass(kind, BaseModel)), None)


def _paths(name: str, model: type[BaseModel]) -> Iterator[str]:
    """Where within this model's objects there is a field of this name that people write; not in lists."""
    for field in model.model_fields.values():
        inner = None if get_origin(field.annotation) is list else _model_of(field)
        if inner not in (None, TenantStatus):
            names = {each.alias for each in inner.model_fields.values()}
            yield from (f"{field.alias}.{path}" for path in ([name] if name in names else _paths(name, inner)))


def sentence(details: ErrorDetails, model: type[BaseModel]) -> str:
    """pydantic's error as a sentence for the author of the manifest. `model`: the object that has the field."""
    context, given = details.get("ctx", {}), f", not {shown(details['input'])}"
    match details["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            *above, name = map(str, details["loc"])
            paths = list(_paths(name, model))
            if len(paths) == 1:  # an indentation is wrong
                return f"is not a known field here; did you mean {'.'.join([*above, *paths])}?"
            known = [field.alias or name for name, field in model.model_fields.items()]
            return "is not a known field" + (_nearest(name, known) or f"; known here: {', '.join(known)}")
        case "literal_error":
            options = [option.strip("'") for option in context["expected"].replace(" or ", ", ").split(", ")]
            choice = f"must be {options[0]}" if len(options) == 1 else f"must be one of {', '.join(options)}"
            return choice + given + _nearest(str(details["input"]), options, cutoff=0.8)
        case "greater_than_equal":
            return f"must be at least {context['ge']}{given}"
        case "less_than_equal":
            return f"must be at most {context['le']}{given}"
        case "int_type" | "int_from_float":
            return f"must be a whole number{given}"
        case "bool_type":
            return f"must be true or false{given}"
        case "string_type":
            value = details["input"]
            quoted = f': write it in quotes, "{shown(value)}"' if isinstance(value, int | float) else ""
            return f"must be a text{given}{quoted}"
        case "string_pattern_mismatch":
            return FORMS[context["pattern"]] + given
        case "string_too_long":
            return f"must be at most {context['max_length']} characters long"
        case "string_too_short":
            return f"must be at least {context['min_length']} characters long"
        case "too_long":
            return f"must hold at most {context['max_length']} entries"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"must be an object{given}"
        case "list_type":
            return f"must be a list{given}"
        case _:
            return details["msg"][:1].lower() + details["msg"][1:]


def _nearest(name: str, known: Sequence[str], *, cutoff: float = 0.6) -> str:
    """Of short words like `gpu` and `cpu` two thirds are the same, so values have to be closer than names of fields."""
    folded = {option.lower().replace("_", ""): option for option in known}
    near = difflib.get_close_matches(name.lower().replace("_", ""), folded, n=1, cutoff=cutoff)
    return f"; did you mean {folded[near[0]]}?" if near else ""


_SECRET = re.compile(r"(?<=//).*(?=@)|(?<=whsec_)[\w+/=-]+")
"""User and password of a URL, also if they have an @ or a / that is not encoded, and a webhook's secret: no log has
them."""


def shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = _SECRET.sub("…", repr(value))
    return text if len(text) <= 60 else text[:57] + "…"
