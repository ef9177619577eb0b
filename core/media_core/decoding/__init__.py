"""Decoding of untrusted bytes in confined child processes. Nothing else decodes them."""

from media_core.decoding.pool import ChildLimits, DecodingPool
from media_core.decoding.results import DecodingFailed, ImageFacts, MediaFacts, SoundTrack, Thumbnail
from media_core.decoding.sources import BytesSource, Source, StoreSource

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
