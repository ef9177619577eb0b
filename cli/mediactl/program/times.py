"""Times as people write them on a command line."""

import re
from datetime import UTC, datetime, timedelta

from mediactl.errors import Misuse

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def lifetime(text: str) -> int:
    """Seconds of `30s`, `15m`, `12h` or `7d`."""
    seconds = _span(text)
    if not seconds:
        raise Misuse(f"a lifetime looks like 30s, 15m, 12h or 7d, not {text!r}")
    return seconds


def moment(text: str) -> datetime:
    """`7d` is seven days ago; else a date or a time by ISO 8601, in this machine's time zone if it names none."""
    try:
        if seconds := _span(text):
            return datetime.now(UTC) - timedelta(seconds=seconds)
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise Misuse(f"a time looks like 7d (seven days ago), 2026-05-17 or 2026-05-17T14:00, not {text!r}") from None


def _span(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    return int(match[1]) * UNITS[match[2]] if match else 0
