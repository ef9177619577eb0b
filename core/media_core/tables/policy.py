"""The policy: its columns are the fields of `policy.Policy`."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Integer, Table, Text, text
from sqlmodel import SQLModel

from media_core import policy

_POLICY_TYPES: Final[Mapping[Any, type[Boolean] | type[BigInteger]]] = {bool: Boolean, int: BigInteger}


def _policy_columns() -> Iterator[Column[Any] | CheckConstraint]:
    """Columns for the fields of `policy.Policy`. A Literal becomes text with a check of its values."""
    for each in dataclasses.fields(policy.Policy):
        if each.name in policy.IN_USAGE:
            continue
        values = get_args(each.type)
        kind = Text if values else _POLICY_TYPES[each.type]
        default = None if each.default is dataclasses.MISSING else text(repr(each.default).lower())
        if values:
            default = text(repr(each.default))
            yield CheckConstraint(f"{each.name} IN ({', '.join(map(repr, values))})", name=f"policy_{each.name}")
        yield Column(each.name, kind, nullable=False, server_default=default)


POLICY = Table(
    "policy",
    SQLModel.metadata,
    Column("id", Integer, primary_key=True),
    CheckConstraint("id = 1", name="policy_one_row"),
    *_policy_columns(),
)
"""One row: the MediaTenant's limits and rules, written by the operator, read by api and workers."""
