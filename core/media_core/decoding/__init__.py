"""Decoding of untrusted bytes in confined child processes. Nothing else decodes them.

The zygote and its children are in this package too, and have no use for the pool, nor for asyncio and the log that it
stands on: these are a third of what the zygote would load. So the pool is imported only where it is asked for.
"""

from typing import TYPE_CHECKING, Any

from media_core.decoding.results import DecodingFailed, ImageFacts, MediaFacts, SoundTrack, Thumbnail
from media_core.decoding.sources import BytesSource, Source, StoreSource

if TYPE_CHECKING:
    from media_core.decoding.pool import ChildLimits, DecodingPool

__all__ = [
    "BytesSource",
    "ChildLimits",
    "DecodingFailed",
    "DecodingPool",
    "ImageFacts",
    "MediaFacts",
    "SoundTrack",
    "Source",
    "StoreSource",
    "Thumbnail",
]


def __getattr__(name: str) -> Any:
    if name not in ("ChildLimits", "DecodingPool"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from media_core.decoding import pool

    return getattr(pool, name)
