"""Decoding of untrusted bytes in confined child processes. Nothing else decodes them.

The zygote and its children are in this package too, and have no use for the pool, nor for asyncio and the log that it
stands on: these are a third of what the zygote would load. So who needs the pool imports `decoding.pool`.
"""

from media_core.decoding.results import DecodingFailed, ImageFacts, MediaFacts, SoundTrack, Thumbnail
from media_core.decoding.sources import BytesSource, Source, StoreSource

__all__ = [
    "BytesSource",
    "DecodingFailed",
    "ImageFacts",
    "MediaFacts",
    "SoundTrack",
    "Source",
    "StoreSource",
    "Thumbnail",
]
