"""The id of a request: the client's, if it sends one, else a new one."""

import re
from typing import Final

from media_core.ids import new_ulid

REQUEST_ID: Final = "X-Request-Id"

_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def offered_or_new(offered: str) -> str:
    """The request's id: what its X-Request-Id says, if that can be one; otherwise a new one."""
    return offered if _ACCEPTED.fullmatch(offered) else new_ulid()
