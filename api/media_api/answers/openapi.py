"""How answers are described in the OpenAPI document."""

from typing import Any


def header(description: str) -> dict[str, Any]:
    """A header whose value is a text."""
    return {"description": description, "schema": {"type": "string"}}
