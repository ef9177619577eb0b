"""Objects of a MediaTenant: known fields, and rules over several of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


@dataclass(frozen=True)
class Rule:
    """A rule over several fields of one object. `field`: the one to change, as written in a manifest.

    `cel` is the same rule as `holds`, for the API server. Defaults are filled in before either is checked.
    `ratcheting`, as in Kubernetes: a tenant that was stored before there was this rule may break it, and is served.
    """

    field: str
    sentence: str
    cel: str
    holds: Callable[[Any], bool]
    ratcheting: bool = False


class Structural(BaseModel):
    """camelCase in manifests, no unknown fields, no conversion of types (YAML's `true` is not the number 1)."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=False,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self, info: ValidationInfo) -> Self:
        is_stored = bool(info.context and info.context.get("stored"))
        for rule in self.rules:
            if not (is_stored and rule.ratcheting) and not rule.holds(self):
                raise PydanticCustomError(f"field:{rule.field}", rule.sentence)
        return self
