"""Columns that many tables have."""

from typing import Any

from sqlalchemy import Column, DateTime, text


def time(*, nullable: bool = False, default_now: bool = False) -> Any:
    """An aware time."""
    return Column(DateTime(timezone=True), nullable=nullable, server_default=text("now()") if default_now else None)
