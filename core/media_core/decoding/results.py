"""The results and the failures of decoding tasks.

A decoding child has read hostile bytes, so its answers are not trusted. The parent builds these objects from plain JSON
values, and raises ValueError for values that do not fit, which fails the task as "crashed".
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAILURES_OF_THE_SOURCE = ("unsupported", "corrupt", "too_large")
FAILURES_OF_THE_MACHINE = ("crashed", "timeout")
"""The source may not be the cause: the kernel ends a decoder where others took the memory, and a busy machine lets one
wait."""
CODES = (*FAILURES_OF_THE_SOURCE, "memory", "crashed")
"""The codes that a child may report; only the parent reports "timeout"."""

LONGEST_SIDE = 1 << 17
"""Pixels. More than in any picture that the pixel caps allow; a child that claims more is lying."""


class DecodingFailed(Exception):
    """One source could not be decoded.

    `code`: "unsupported", "corrupt", "too_large" (pixels, bytes), "timeout", "memory" or "crashed". `detail` is for a
    person; it may quote a decoder's message, never the source's bytes.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def _check_side(*sides: int | None) -> None:
    for side in sides:
        if side is not None and (type(side) is not int or not 1 <= side <= LONGEST_SIDE):
            raise ValueError(f"not a picture's side: {side!r}")


@dataclass(frozen=True)
class ImageFacts:
    """What a picture's header says. Sides in pixels as displayed (with EXIF orientation); `format`: Pillow's name."""

    width: int
    height: int
    format: str
    animated: bool

    def __post_init__(self) -> None:
        _check_side(self.width, self.height)
        if type(self.format) is not str or len(self.format) > 16 or type(self.animated) is not bool:
            raise ValueError("not the facts of a picture")


@dataclass(frozen=True)
class Thumbnail:
    """An encoded WebP picture without metadata, in sRGB. All sides in pixels; `source_*` as displayed."""

    data: bytes
    width: int
    height: int
    source_width: int
    source_height: int
    duration: float | None = None
    """Seconds; only for a video's frame, if the container says it."""

    thumbhash: str | None = None
    """Base64 of some 20 bytes: see `media_core.decoding.thumbhash`."""

    def __post_init__(self) -> None:
        _check_side(self.width, self.height, self.source_width, self.source_height)
        _check_duration(self.duration)
        if self.data[:4] != b"RIFF" or self.data[8:12] != b"WEBP":
            raise ValueError("not a WebP picture")
        if self.thumbhash is not None and not 5 <= len(base64.b64decode(self.thumbhash, validate=True)) <= 32:
            raise ValueError("not a ThumbHash")

    @property
    def details(self) -> dict[str, Any]:
        """What is kept of it beside the picture: see `contents.Facts.details`."""
        return {"thumbhash": self.thumbhash} if self.thumbhash is not None else {}


@dataclass(frozen=True)
class SoundTrack:
    """A track of sound, as the container describes it. What it does not say is None."""

    codec: str | None
    """FFmpeg's name."""
    channels: int | None
    language: str | None
    """ISO 639, as the file has it."""
    title: str | None
    decodes: bool
    """Whether its beginning could be decoded."""

    def __post_init__(self) -> None:
        for said, longest in ((self.codec, 40), (self.language, 40), (self.title, 100)):
            if said is not None and (type(said) is not str or len(said) > longest or not said.isprintable()):
                raise ValueError("not the name of a sound track")
        if self.channels is not None and (type(self.channels) is not int or not 1 <= self.channels <= 1024):
            raise ValueError(f"not a number of channels: {self.channels!r}")
        if type(self.decodes) is not bool:
            raise ValueError("not the facts of a sound track")


LONGEST_DETAIL = 200
"""Characters of what is said of a failure."""


@dataclass(frozen=True)
class MediaFacts:
    """What a container's headers say. `duration` in seconds, None if only decoding could tell it; sides in pixels."""

    duration: float | None
    width: int | None
    height: int | None
    has_audio: bool
    has_video: bool
    """Whether there is a track of moving pictures, in whatever codec."""
    no_picture: str | None = None
    """Why these cannot be decoded here, for people."""
    container: str = ""
    """FFmpeg's name of the format."""
    tracks: tuple[SoundTrack, ...] = ()
    begins_again: bool = False
    """Whether its timestamps do on the way, as where recordings are joined."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> MediaFacts:
        """From plain JSON values."""
        tracks = tuple(SoundTrack(**track) for track in facts["tracks"])
        return cls(**{**facts, "tracks": tracks})

    @property
    def has_picture(self) -> bool:
        """Whether there are moving pictures that can be decoded here."""
        return self.has_video and self.no_picture is None

    def __post_init__(self) -> None:
        _check_side(self.width, self.height)
        _check_duration(self.duration)
        if not all(type(fact) is bool for fact in (self.has_audio, self.has_video, self.begins_again)):
            raise ValueError("not the facts of a recording")
        if type(self.container) is not str or len(self.container) > 64 or len(self.tracks) > 16:
            raise ValueError("not the facts of a recording")
        if self.no_picture is not None and (type(self.no_picture) is not str or len(self.no_picture) > LONGEST_DETAIL):
            raise ValueError("not the facts of a recording")


def _check_duration(duration: float | None) -> None:
    if duration is not None and (type(duration) is not float or not math.isfinite(duration) or duration < 0):
        raise ValueError(f"not a duration: {duration!r}")
