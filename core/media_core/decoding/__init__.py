"""Untrusted bytes are decoded only here, in limited child processes."""

from media_core.decoding.pool import DecodingPool, Limits
from media_core.decoding.results import DecodingFailed, ImageFacts, MediaFacts, Thumbnail
from media_core.decoding.sources import BytesSource, Source, StoreSource

__all__ = [
    "BytesSource",
    "DecodingFailed",
    "DecodingPool",
    "ImageFacts",
    "Limits",
    "MediaFacts",
    "Source",
    "StoreSource",
    "Thumbnail",
]
