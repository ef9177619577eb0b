"""Why a call did not succeed. `MediaError` is the class to catch; its subclasses are for who treats them apart."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class MediaError(Exception):
    """A call that did not succeed, with a sentence for people. It never contains the token.

    `type`, `title`, `status`, `detail` and `code` are those of the API's problem (RFC 9457), `facts` its other members
    (`limit`, `used`, …). Where the API gave none, `detail` is the sentence, `type` is `about:blank`, `status` is None,
    and the others are empty. `retry_after`: seconds, None where the API did not say. `request_id`: to quote.
    """

    type: str = "about:blank"
    title: str = ""
    status: int | None = None
    code: str = ""
    facts: Mapping[str, Any] = MappingProxyType({})
    retry_after: float | None = None
    request_id: str | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Misuse(MediaError):
    """The call cannot be made as given. Nothing was sent."""


class Unreachable(MediaError):
    """Nothing answers, or the connection broke."""


class Failed(MediaError):
    """The API accepted the work, and the work failed."""


class Corrupt(Failed):
    """The bytes that arrived are not the bytes that were sent."""


class Problem(MediaError):
    """The API refused."""

    status: int

    def __init__(self, status: int, members: Mapping[str, Any], retry_after: float | None, request_id: str | None):
        title = str(members.get("title") or "")
        super().__init__(str(members.get("detail") or title or f"the API answered {status}, no reason given"))
        self.type = str(members.get("type") or "about:blank")
        self.title = title
        self.status = status
        self.code = str(members.get("code") or "")
        self.facts = {k: v for k, v in members.items() if k not in {"type", "title", "status", "detail", "code"}}
        self.retry_after = retry_after
        self.request_id = request_id
