"""Who says what content is. Uploads know no more of it: not every image carries libmagic and the decoders."""

from dataclasses import dataclass
from typing import Protocol

from media_core.contents.life import Facts
from media_core.decoding import Source


@dataclass(frozen=True)
class Examined:
    """`thumbnail`: the master of a picture, WebP."""

    facts: Facts
    thumbnail: bytes | None = None


class Examiner(Protocol):
    """Who says what content is: `examination.Examination`, or who knows it without looking."""

    async def examine(self, source: Source, head: bytes, filename: str, claimed_type: str | None) -> Examined:
        """`head`: the first `upload.SNIFF_BYTES` of `source`, or all of it. Raises Unavailable."""
