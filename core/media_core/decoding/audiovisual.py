"""Audio and video: headers, one frame, a window of samples. Runs in the child.

Containers and codecs come from allow lists. A container that refers to another file (a playlist, a concatenation, an
external track) is refused.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Never

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageStat

from media_core.decoding.colours import Coding, to_srgb
from media_core.decoding.failures import CannotDecode
from media_core.decoding.images import picture
from media_core.decoding.wire import BLOCK

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,mp3,wav,flac,aac,amr,aiff,caf,avi,mpegts,mpeg"
VIDEO_CODECS = "h264,hevc,vp8,vp9,av1,libdav1d,mpeg4,mpeg1video,mpeg2video,theora,mjpeg,h263,prores"
AUDIO_CODECS = (
    "aac,mp3,mp3float,mp2,mp2float,opus,vorbis,flac,alac,amrnb,amrwb,ac3,eac3,adpcm_ima_wav,adpcm_ms,adpcm_ima_qt,"
    "pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,"
    "pcm_alaw,pcm_mulaw"
)
MOST_PIXELS = 8192 * 4320
"""Most pixels of a video's frame: 8K DCI, the largest in use. The memory limit bounds how many a decoder keeps."""

SAMPLE_RATE = 16_000
"""Hertz; the rate that speech models take."""

MOST_FRAMES = 150
"""Most frames decoded from a keyframe to the wanted moment. After that many, the last one is taken."""

MOMENTS = (0.1, 0.25, 0.5)
"""Shares of a video's duration at which a frame is looked for that is worth looking at."""

MOMENTS_OF_UNKNOWN = (1.0, 4.0, 15.0)
"""The same in seconds, where the duration is unknown."""

LEAST_SPREAD = 8.0
"""Standard deviation of the luminance, of 255, from which on a frame counts as not of one colour."""

DARKEST = 16.0
"""Mean luminance, of 255, up to which a frame counts as black."""

MOST_READ = 3 << 20
MOST_CPU_SECONDS = 5.0
"""What choosing a frame may cost after the headers are read. With it spent, the best so far is taken."""

BEFORE_THE_START = -1.0
"""Seconds. A transport stream's first keyframe is decoded before the first moment that is shown."""

MOST_ASPECT = 8.0
"""Largest ratio of a pixel's sides."""

MOST_BYTES_COUNTED = 64 << 20
"""Largest recording whose packets are read (not decoded) to find its duration when the header does not say it."""

PREROLL = 0.5
"""Seconds that are decoded before a window, so that a codec's state from earlier frames (MP3, AAC, Opus) is right."""

GAP = SAMPLE_RATE // 10
"""Samples. A larger jump of the timestamps becomes silence, so that sample n is always at start + n / 16000."""

_MICROSECONDS = 1_000_000
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def warm_up() -> None:
    """Runs every task once: the library imports parts of itself on first use, which a confined process cannot."""
    av.logging.set_level(None)  # its messages quote the file
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        film = output.add_stream("mpeg4", rate=1, width=16, height=16, pix_fmt="yuv420p")
        voice = output.add_stream("flac", rate=8_000, layout="mono")
        black, silence = VideoFrame(16, 16, "yuv420p"), AudioFrame("s16", "mono", 4_000)
        black.pts = silence.pts = 0
        silence.rate = 8_000
        for packet in (*film.encode(black), *film.encode(None), *voice.encode(silence), *voice.encode(None)):
            output.mux(packet)
    for task in (probe, video_frame, functools.partial(audio_window, start=0.0, seconds=1.0)):
        file.seek(0)
        task(file)


def probe(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """What the headers say (MediaFacts). One frame of a video is decoded, as only a frame tells its rotation."""
    with _opened(file) as container:
        video = _video(container)
        width = height = None
        if video is not None:
            width, height = video.codec_context.width or None, video.codec_context.height or None
            with contextlib.suppress(CannotDecode, StopIteration):
                width, height = _displayed(next(_frames(container, video)), video)
        duration = _duration(container)
        facts = {
            "width": width,
            "height": height,
            "has_audio": bool(container.streams.audio),
            "has_video": video is not None,
        }
    if duration is None and file.seek(0, 2) <= MOST_BYTES_COUNTED:
        file.seek(0)
        with _opened(file) as container:
            duration = _counted_duration(container)
    return facts | {"duration": duration}, b""


def video_frame(file: IO[bytes], at_seconds: float = 1.0, max_side: int = 1024) -> tuple[dict[str, Any], bytes]:
    """A frame worth looking at, upright, with square pixels and in sRGB, as WebP.

    It is the first at MOMENTS that is not of one colour; else the one shown at `at_seconds`, or the last of a shorter
    video, unless that is darker than others that were seen.
    """
    spending = _Spending(file)
    with _opened(io.BufferedReader(spending)) as container:
        stream = _video(container)
        if stream is None:
            raise CannotDecode("unsupported", "there is no video in it")
        spending.begin()
        image, width, height = _worth_looking_at(container, stream, spending, at_seconds, max_side)
        facts, encoded = picture(image, width, height)
        return facts | {"duration": _duration(container)}, encoded


def audio_window(file: IO[bytes], start: float, seconds: float) -> tuple[dict[str, Any], bytes | bytearray]:
    """Samples of [start, start + seconds) as s16le mono 16 kHz; fewer at the recording's end, none after it."""
    wanted = round(seconds * SAMPLE_RATE)
    window = bytearray()
    position = 0  # of the next sample, counted from `start`; negative during the preroll
    with _opened(file) as container:
        stream = _audio(container)
        origin = _origin(container)
        if start > PREROLL:
            _seek(container, start - PREROLL)
        first = True
        for frame in _resampled(_frames(container, stream)):
            at = position if frame.time is None else round((frame.time - origin - start) * SAMPLE_RATE)
            if first or at > position + GAP:
                silence = min(at, wanted) - max(position, 0)
                window.extend(bytes(2 * max(silence, 0)))
                position, first = at, False
            samples = memoryview(frame.planes[0])[: 2 * frame.samples]
            skipped = min(max(-position, 0), frame.samples)
            room = max(wanted - max(position, 0), 0)
            window.extend(samples[2 * skipped : 2 * (skipped + room)])
            position += frame.samples
            if position >= wanted:
                break
    return {}, window


def _opened(file: IO[bytes]) -> InputContainer:
    """The container, its headers read. Raises CannotDecode("unsupported") unless its format is on the allow list."""

    def refuse(*_: object) -> Never:
        raise CannotDecode("unsupported", "the container refers to another file")

    limits = {
        "format_whitelist": CONTAINERS,
        "codec_whitelist": f"{VIDEO_CODECS},{AUDIO_CODECS}",
        "protocol_whitelist": "none",
        "max_streams": "64",
    }
    try:
        return av.open(
            file,
            mode="r",
            options={"max_pixels": str(MOST_PIXELS)},
            container_options=limits,
            metadata_errors="replace",
            io_open=refuse,
        )
    except av.error.ArgumentError as error:
        raise CannotDecode("unsupported", "not audio or video in a format that is decoded here") from error


def _video(container: InputContainer) -> VideoStream | None:
    """The first video stream that is no still such as cover art, checked against the allow list and the pixel cap."""
    for stream in container.streams.video:
        if stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails):
            continue
        _allow(stream, VIDEO_CODECS)
        if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
            raise CannotDecode("too_large", "the video's picture is larger than 8192 x 4320")
        return stream
    return None


def _audio(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        raise CannotDecode("unsupported", "there is no sound in it")
    stream = container.streams.audio[0]
    _allow(stream, AUDIO_CODECS)
    return stream


def _allow(stream: AudioStream | VideoStream, codecs: str) -> None:
    context = stream.codec_context
    if context is None or context.name not in codecs.split(","):
        raise CannotDecode("unsupported", "its codec is not decoded here")
    context.thread_count = 1
    context.options = {"max_pixels": str(MOST_PIXELS)}


def _frames(container: InputContainer, stream: AudioStream | VideoStream) -> Iterator[Any]:
    """Decoded frames from the current position, without damaged packets. Raises CannotDecode if no frame is left."""
    found = False
    damage: Exception | None = None
    for packet in _until_broken(container, stream):
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            damage = error
            continue
        found = found or bool(frames)
        yield from frames
    if damage is not None and not found:
        raise CannotDecode("corrupt", "nothing in it can be decoded") from damage


def _until_broken(container: InputContainer, stream: AudioStream | VideoStream) -> Iterator[Any]:
    """The stream's packets, up to where the container breaks off. Other streams are skipped."""
    for other in container.streams:
        other.discard = Discard.default if other.index == stream.index else Discard.all
    with contextlib.suppress(av.error.InvalidDataError, av.error.EOFError):
        yield from container.demux(stream)


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
    container: InputContainer, stream: VideoStream, spending: _Spending, at_seconds: float, max_side: int
) -> tuple[Image.Image, int, int]:
    """The chosen frame, at most `max_side` pixels long, and the sides of the video as it is shown."""
    duration = _duration(container)
    moments = [share * duration for share in MOMENTS] if duration else MOMENTS_OF_UNKNOWN
    seen: list[Image.Image] = []
    sides = (0, 0)
    for moment in moments:
        if seen and spending.is_enough:
            break
        frame = _frame_at(container, stream, moment, spending)
        if frame is None:
            continue
        sides = _displayed(frame, stream)
        image = _as_shown(frame, stream, max_side)
        luma = ImageStat.Stat(image.convert("L"))
        if luma.stddev[0] >= LEAST_SPREAD:
            return image, *sides
        seen.append(image)
    if not seen or not spending.is_enough:
        # A video that is shorter, or whose only keyframe is its first, may have no frame after a seek.
        for start in (at_seconds, BEFORE_THE_START):
            frame = _frame_at(container, stream, at_seconds, spending, start=start)
            if frame is not None:
                sides = _displayed(frame, stream)
                seen.insert(0, _as_shown(frame, stream, max_side))
                break
    if not seen:
        raise CannotDecode("corrupt", "there is no picture in it")
    lumas = [ImageStat.Stat(image.convert("L")).mean[0] for image in seen]
    return seen[0 if lumas[0] > DARKEST else lumas.index(max(lumas))], *sides


def _frame_at(
    container: InputContainer, stream: VideoStream, moment: float, spending: _Spending, *, start: float | None = None
) -> VideoFrame | None:
    """The frame shown at `moment`, or the last one before; None where there is none.

    `start`: where decoding begins, in seconds. Without it, a keyframe that is nearer to the moment than to the video's
    start will do as well.
    """
    _seek(container, moment if start is None else start)
    frame: VideoFrame | None = None
    with contextlib.suppress(CannotDecode):
        for decoded, frame in enumerate(_frames(container, stream), start=1):
            at = (frame.time or 0.0) - _origin(container)
            if at >= moment or decoded == MOST_FRAMES or spending.is_enough:
                break
            if decoded == 1 and start is None and 0 < moment / 2 <= at:
                break
    return frame


def _as_shown(frame: VideoFrame, stream: VideoStream, max_side: int) -> Image.Image:
    width, height = _square(frame, stream)
    scale = min(1.0, max_side / max(width, height))
    small = frame.reformat(
        width=max(1, round(width * scale)), height=max(1, round(height * scale)), format="rgb24", threads=1
    )
    image = Image.frombytes(
        "RGB", (small.width, small.height), bytes(small.planes[0]), "raw", "RGB", small.planes[0].line_size
    )
    image = to_srgb(image, Coding(int(frame.color_primaries), int(frame.color_trc)))
    turn = _TURNS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)


def _origin(container: InputContainer) -> float:
    """The timestamp, in seconds, of the recording's start."""
    return float((container.start_time or 0) / _MICROSECONDS)


def _seek(container: InputContainer, seconds: float) -> None:
    """Seeks to the last keyframe before `seconds`. If the container cannot seek, its position stays."""
    with contextlib.suppress(av.error.PermissionError, av.error.InvalidDataError, av.error.OSError):
        container.seek(round((_origin(container) + seconds) * _MICROSECONDS))


def _square(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """The sides in square pixels. One side grows, as in browsers. Shapes that no screen has do not count."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / MOST_ASPECT <= aspect <= MOST_ASPECT:
        return frame.width, frame.height
    return round(frame.width * max(aspect, 1.0)), round(frame.height / min(aspect, 1.0))


def _displayed(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    width, height = _square(frame, stream)
    return (height, width) if frame.rotation % 180 == 90 else (width, height)


def _resampled(frames: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
    """The same sound as s16 mono 16 kHz, also if its rate or layout changes on the way."""
    for _, alike in itertools.groupby(frames, key=lambda f: (f.format.name, f.layout.name, f.sample_rate)):
        resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        for frame in alike:
            yield from resampler.resample(frame)
        yield from (rest for rest in resampler.resample(None) if rest is not None)


def _duration(container: InputContainer) -> float | None:
    """Seconds by the container's header, or else by its longest stream's."""
    if container.duration:
        return float(container.duration / _MICROSECONDS)
    known = [float(s.duration * s.time_base) for s in container.streams if s.duration and s.time_base]
    return max(known, default=None)


def _counted_duration(container: InputContainer) -> float | None:
    first = last = None
    for packet in container.demux():
        if packet.pts is None or packet.time_base is None:
            continue
        begins = float(packet.pts * packet.time_base)
        ends = begins + float((packet.duration or 0) * packet.time_base)
        first = begins if first is None else min(first, begins)
        last = ends if last is None else max(last, ends)
    return None if first is None or last is None else last - first
