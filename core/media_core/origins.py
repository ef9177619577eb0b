"""Origins of web apps, as a tenant allows them: `https://app.example`, or `https://*.preview.example` for one label."""

import re
from typing import Final

PATTERN: Final = r"^https?://(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[1-9][0-9]{0,4})?$"
"""Scheme, host and port in lower case, as a browser writes them in `Origin` (RFC 6454); no path, no default port."""


def is_origin(text: str) -> bool:
    return re.fullmatch(PATTERN, text) is not None and len(text) <= 255


def matching(origin: str) -> str:
    """A regular expression for what `origin` allows. `*.` stands for exactly one label."""
    scheme, _, host = origin.partition("://")
    label = "[a-z0-9_-]+" if host.startswith("*.") else ""
    return re.escape(f"{scheme}://") + label + re.escape(host.removeprefix("*"))
