"""One frame of a film, as it is shown. Runs in the child."""

from __future__ import annotations

import contextlib
import heapq
import io
import itertools
import re
import struct
import time
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageStat

from media_core.decoding.colours import Coding, to_srgb
from media_core.decoding.containers import BARE, film_to_show, frames_of, opened, seek_to, start_of, stated_duration
from media_core.decoding.durations import bytes_at, outermost_boxes
from media_core.decoding.failures import CannotDecode
from media_core.decoding.images import picture
from media_core.decoding.stills import pixels
from media_core.decoding.wire import BLOCK

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


MOST_FRAMES = 300
"""Most frames decoded from a keyframe to the wanted moment. After that many, the last one is taken."""

USUAL_MOMENT = 1.0
"""Seconds: which frame is shown where none is worth more than another."""

MOMENTS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Shares of a video's duration at which a frame is looked for that is worth looking at."""

MORE_MOMENTS = (0.97, 0.03, 0.4, 0.6, 0.83, 0.17)
"""The same, where these and the largest frames show nothing."""

LARGEST_FRAMES = 2
"""So many, by the container's index, are looked at. A frame of one colour takes few bytes."""

MOMENTS_OF_UNKNOWN = (1.0, 4.0, 15.0, 60.0)
"""The same in seconds, where the duration is unknown."""

NUMBERS_OF_BARE = (1, 25, 100)
"""Which frames are looked at where nothing can be sought, as in a stream without a container."""

LEAST_SPREAD = 8.0
"""Standard deviation of the luminance, of 255, from which on a frame counts as not of one colour."""

DARKEST = 16.0
"""Mean luminance, of 255, up to which a frame counts as black."""

MOST_READ = 3 << 20
MOST_CPU_SECONDS = 5.0
"""What choosing a frame may cost after the headers are read. With it spent, the best so far is taken."""

SHORT = 0.001
"""Seconds. Times are rounded on the way to a seek."""

BEFORE_THE_START = -1.0
"""Seconds. A transport stream's first keyframe is decoded before the first moment that is shown."""

MOST_ASPECT = 8.0
"""Largest ratio of a pixel's sides."""

_ROWS_OF_A_TAPE = {(720, 608): 576, (720, 512): 486}
"""Rows of the picture in a frame of D-10, a tape's MPEG-2 in MXF (SMPTE ST 356). Above them are the tape's other lines:
time codes and subtitles.
"""

ROWS_OF_BT709 = 720
"""A film that does not say how its colours are coded is taken for BT.709 from so many rows on, else for BT.601, as in
Chromium and Firefox."""

_DOLBYS_OWN = ("dvh1", "dvhe", "dav1")
_DOLBYS_NOTE = re.compile(rb"dvcC(?:.{0,24}?\x41\xed[\x80-\xff])?\x01.[\x0a\x0b]", re.DOTALL)
"""Names of codecs, and a track's note, of films that only players of Dolby Vision show in their colours: of profile 5,
and of 10 where it has nothing for others. In a Matroska the note has a name of its own.
"""
HEAD = 1 << 16
"""So much is looked at for that note."""

_UNSPECIFIED, _BT709 = 2, 1
"""Code points of ITU-T H.273."""

_COLOURS = {"color_primaries": _UNSPECIFIED, "color_trc": _UNSPECIFIED, "colorspace": _UNSPECIFIED, "color_range": 0}
"""What a film says of its colours, by FFmpeg's names, and the value that says nothing."""
_ALONG = {
    (False, False): None,
    (True, False): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, True): Image.Transpose.FLIP_TOP_BOTTOM,
    (True, True): Image.Transpose.ROTATE_180,
}
_ACROSS = {
    (False, False): Image.Transpose.TRANSPOSE,
    (True, False): Image.Transpose.ROTATE_90,
    (False, True): Image.Transpose.ROTATE_270,
    (True, True): Image.Transpose.TRANSVERSE,
}
"""How a frame is turned and mirrored, by the signs of its matrix: see `_turn`."""

# PyAV gives up a frame with any side data whose type its table lacks: EXIF, or the displays of a spatial film.
SideDataType._missing_ = classmethod(lambda types, _: types.VIDEO_HINT)  # type: ignore[method-assign, assignment]


def video_frame(file: IO[bytes], max_side: int = 1024) -> tuple[dict[str, Any], bytes]:
    """A frame worth looking at, upright, with square pixels and in sRGB, as WebP.

    It is the first at MOMENTS, or at more of them, that is neither of one colour nor dark; else the one shown at
    USUAL_MOMENT, or the last of a shorter video, unless that is of one colour, or dark, and others that were seen are
    not.
    """
    spending = _Spending(file)
    for is_sought in (True, False):  # after a seek that fails, some demuxers find nothing any more
        spending.seek(0)
        with opened(io.BufferedReader(spending)) as container:
            stream = film_to_show(container)
            if stream is None:
                raise CannotDecode("unsupported", "there is no video in it")
            if _is_in_dolbys_colours(file, stream):
                raise CannotDecode("unsupported", "its colours are in Dolby Vision's own form, which is not shown here")
            spending.begin()
            found = _worth_looking_at(container, stream, spending, max_side, is_sought=is_sought)
            if found:
                facts, encoded = picture(*found)
                return facts | {"duration": stated_duration(container)}, encoded
    raise CannotDecode("corrupt", "there is no picture in it")


def _is_in_dolbys_colours(file: IO[bytes], stream: VideoStream) -> bool:
    """Whether other players would show it in purple and green."""
    context = stream.codec_context
    if context.color_trc != _UNSPECIFIED:
        return False
    if context.codec_tag in _DOLBYS_OWN:
        return True
    start = 0
    if stream.container.format.name.startswith("mov,"):
        start = next((at for name, at, _ in outermost_boxes(file) if name == b"moov"), 0)
    return _DOLBYS_NOTE.search(bytes_at(file, start, HEAD)) is not None


class _Spending(io.RawIOBase):
    """A source, and what choosing a frame has cost so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._blocks: set[int] = set()
        self._began = 0.0

    def begin(self) -> None:
        """The headers are read; what is read and computed from now on counts."""
        self._blocks.clear()
        self._began = time.process_time()

    @property
    def is_enough(self) -> bool:
        return len(self._blocks) * BLOCK >= MOST_READ or time.process_time() - self._began >= MOST_CPU_SECONDS

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        at = self._file.tell()
        data = self._file.read(len(view))
        view[: len(data)] = data
        self._blocks.update(range(at // BLOCK, (at + len(data) - 1) // BLOCK + 1))
        return len(data)


def _worth_looking_at(
    container: InputContainer, stream: VideoStream, spending: _Spending, max_side: int, *, is_sought: bool
) -> tuple[Image.Image, int, int] | None:
    """The chosen frame, at most `max_side` pixels long, and the sides of the video as it is shown; None if there is no
    frame.
    """
    duration = stated_duration(container)
    moments = [share * duration for share in MOMENTS] if duration else MOMENTS_OF_UNKNOWN
    # A palette comes with the first packet, and after a seek it is missing.
    is_sought = is_sought and container.format.name not in BARE and stream.codec_context.pix_fmt != "pal8"
    frames: Iterable[VideoFrame | None] = itertools.chain(
        (_frame_at(container, stream, moment, spending) for moment in moments),
        (
            _frame_at(container, stream, moment, spending, start=moment)
            for moment in _more_moments(container, stream, duration)
        ),
    )
    # As the container says them. The decoder replaces them by what its frames say, which may be nothing.
    colours = {name: getattr(stream.codec_context, name) for name in _COLOURS}
    seen: list[Image.Image] = []
    is_dark, sides = False, (0, 0)
    for frame in frames if is_sought else _numbered(container, stream):
        if frame is None:
            continue
        sides = displayed_sides(frame, stream)
        image = _as_shown(frame, stream, max_side, colours)
        if _has_contrast(image) and _brightness(image) > DARKEST:
            return image, *sides
        seen.append(image)
        is_dark = is_dark or _has_contrast(image)
        if spending.is_enough or (is_dark and len(seen) >= len(MOMENTS)):
            break
    if is_sought and not is_dark and (not seen or not spending.is_enough):
        # A video that is shorter, or whose only keyframe is its first, may have no frame after a seek, or a black one.
        for start, moment in ((USUAL_MOMENT, USUAL_MOMENT), (BEFORE_THE_START, USUAL_MOMENT), (BEFORE_THE_START, 0.0)):
            frame = _frame_at(container, stream, moment, spending, start=start)
            if frame is not None:
                sides = displayed_sides(frame, stream)
                seen.insert(0, _as_shown(frame, stream, max_side, colours))
                if _brightness(seen[0]) > DARKEST:
                    break
    if not seen:
        return None
    seen = [image for image in seen if _has_contrast(image)] or seen
    return seen[0] if _brightness(seen[0]) > DARKEST else max(seen, key=_brightness), *sides


def _more_moments(container: InputContainer, stream: VideoStream, duration: float | None) -> Iterator[float]:
    """In seconds. The first are of the largest frames."""
    known = (entry for entry in stream.index_entries if entry.size > 0)
    for entry in heapq.nlargest(LARGEST_FRAMES, known, key=lambda entry: entry.size):
        yield float(entry.timestamp * (stream.time_base or 0)) - start_of(container) + SHORT
    for share in MORE_MOMENTS if duration else ():
        yield share * (duration or 0)


def _has_contrast(image: Image.Image) -> bool:
    return ImageStat.Stat(image.convert("L")).stddev[0] >= LEAST_SPREAD


def _brightness(image: Image.Image) -> float:
    """The mean luminance, of 255."""
    return ImageStat.Stat(image.convert("L")).mean[0]


def _numbered(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """The frames with NUMBERS_OF_BARE, or of a shorter stream the last."""
    frame: VideoFrame | None = None
    number = 0
    with contextlib.suppress(CannotDecode):
        for number, frame in enumerate(frames_of(container, stream), start=1):
            if number in NUMBERS_OF_BARE:
                yield frame
            if number == NUMBERS_OF_BARE[-1]:
                return
    if frame is not None and number not in NUMBERS_OF_BARE:
        yield frame


def _frame_at(
    container: InputContainer, stream: VideoStream, moment: float, spending: _Spending, *, start: float | None = None
) -> VideoFrame | None:
    """The frame shown at `moment`, or the last one before; None where there is none.

    `start`: where decoding begins, in seconds. Without it, a keyframe that is nearer to the moment than to the video's
    start will do as well.
    """
    seek_to(container, moment if start is None else start)
    frame: VideoFrame | None = None
    with contextlib.suppress(CannotDecode):
        for decoded, frame in enumerate(frames_of(container, stream), start=1):
            at = (frame.time or 0.0) - start_of(container)
            if at >= moment or decoded == MOST_FRAMES or spending.is_enough:
                break
            if decoded == 1 and start is None and 0 < moment / 2 <= at:
                break
    return frame


def _as_shown(frame: VideoFrame, stream: VideoStream, max_side: int, colours: dict[str, int]) -> Image.Image:
    """`colours`: what counts where the frame says nothing."""
    width, height = _square(frame, stream)
    scale = min(1.0, max_side / max(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    whole = round(height * frame.height / _rows(frame, stream))
    for name, unspecified in _COLOURS.items():
        if getattr(frame, name) == unspecified:
            setattr(frame, name, colours[name])
    if frame.colorspace == _UNSPECIFIED and frame.height >= ROWS_OF_BT709:
        frame.colorspace = _BT709
    small = pixels(frame, sides=(width, whole)).crop((0, whole - height, width, whole))
    image = to_srgb(small, Coding(int(frame.color_primaries), int(frame.color_trc)))
    turn = _turn(frame)
    return image if turn is None else image.transpose(turn)


def _turn(frame: VideoFrame) -> Image.Transpose | None:
    """How the frame is shown: by the matrix of the container or the codec, to the nearest quarter of a turn.

    A pixel at (x, y) is shown at (ax + cy, bx + dy) (ISO 14496-12, 6.2.2).
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _ALONG[a < 0, d < 0]
    return _ACROSS[b < 0, c < 0]


def _square(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """The sides in square pixels. One side grows, as in browsers. Shapes that no screen has do not count."""
    rows = _rows(frame, stream)
    aspect = float(stream.sample_aspect_ratio or 1) * rows / frame.height  # the screen's shape is that of the picture
    if not 1 / MOST_ASPECT <= aspect <= MOST_ASPECT:
        return frame.width, rows
    return round(frame.width * max(aspect, 1.0)), round(rows / min(aspect, 1.0))


def _rows(frame: VideoFrame, stream: VideoStream) -> int:
    """So many rows of the frame are shown, the last ones."""
    is_of_a_tape = stream.container.format.name == "mxf" and stream.codec_context.name == "mpeg2video"
    return _ROWS_OF_A_TAPE.get((frame.width, frame.height), frame.height) if is_of_a_tape else frame.height


def displayed_sides(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    width, height = _square(frame, stream)
    return (height, width) if _turn(frame) in _ACROSS.values() else (width, height)
