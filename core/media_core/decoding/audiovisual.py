"""Audio and video: headers, one frame, a window of samples. Runs in the child.

Containers and codecs come from allow lists. A container that refers to another file (a playlist, a concatenation, an
external track) is refused.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
import re
import struct
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Literal, Never

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageStat

from media_core.decoding.colours import Coding, to_srgb
from media_core.decoding.failures import CannotDecode
from media_core.decoding.images import picture
from media_core.decoding.wire import BLOCK

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,mp3,wav,w64,flac,aac,loas,amr,aiff,caf,au,ac3,eac3,dts,dtshd,wv,tta,ape,"
    "avi,asf,flv,mxf,dv,mpegts,mpeg"
)
VIDEO_CODECS = (
    "h264,hevc,vp8,vp9,av1,libdav1d,mpeg4,mpeg1video,mpeg2video,theora,mjpeg,h263,prores,dnxhd,dvvideo,flv,vp6,vp6f,"
    "msmpeg4v2,msmpeg4,wmv1,wmv2,wmv3,vc1"
)
AUDIO_CODECS = (
    "aac,aac_latm,mp3,mp3float,mp2,mp2float,mp1,mp1float,opus,vorbis,speex,flac,alac,wavpack,tta,ape,amrnb,amrwb,"
    "ac3,eac3,dca,wmav1,wmav2,wmapro,wmalossless,wmavoice,dvaudio,nellymoser,gsm,gsm_ms,"
    "adpcm_ima_wav,adpcm_ms,adpcm_ima_qt,adpcm_swf,adpcm_yamaha,g722,g726,g726le,g723_1,g729,truespeech,ilbc,qcelp,evrc,"
    "pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,"
    "pcm_f64be,pcm_alaw,pcm_mulaw,pcm_bluray,pcm_dvd"
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

ROWS_OF_BT709 = 720
"""A film that does not say how its colours are coded is taken for BT.709 from so many rows on, else for BT.601, as in
Chromium and Firefox."""

_UNSPECIFIED, _BT709 = 2, 1
"""Matrix coefficients (ITU-T H.273, table 4)."""

MOST_BYTES_COUNTED = 64 << 20
"""Largest recording whose packets are read (not decoded) to find its duration when the header does not say it."""

MOST_PACKETS_COUNTED = 600_000
"""Most packets that are read for that: of small ones a child's CPU time allows no more."""

MOST_BYTES_TRIED = 8 << 20
"""So much of the beginning is read to see which sound tracks can be decoded."""

PACKETS_TRIED = 10
"""A track of which so many packets are damaged, and none is right, can't be decoded."""

MOST_STREAMS = 500
"""Of a container. A film may carry a hundred fonts for its subtitles, each a stream of its own."""

MOST_TRACKS = 16
"""So many sound tracks can be heard; the rest is passed over."""

LONGEST_TITLE = 60
"""Characters of a sound track's title."""

STEREO = 2
MOST_LOUDSPEAKERS = 8
"""Channels of layouts that FFmpeg mixes, such as 7.1."""

PREROLL = 0.5
"""Seconds that are decoded before a window, so that a codec's state from earlier frames (MP3, AAC, Opus) is right."""

LONG_PREROLL = 30.0
"""The same where nothing is found at a window's start: a frame that began earlier may reach into it. Those of WavPack
and FLAC may last for seconds, and a film is sought by its picture's keyframes.
"""

GAP = SAMPLE_RATE // 10
"""Samples. A larger jump of the timestamps becomes silence, so that sample n is always at start + n / 16000."""

_MICROSECONDS = 1_000_000
_HAS_FRAMES_AND_BYTES = 3
"""Flags of Xing's header: the number of frames and that of bytes follow."""

MOST_BYTES_BEHIND_MP3 = 4096
"""Of tags at an MP3's end, such as ID3v1 and APEv2, without a picture. With more its frames are counted."""

_JOINED = frozenset(("mpegts", "mpeg", "flv"))
"""Formats whose files are joined byte by byte or cut anywhere. FFmpeg says the duration of one part, or what was
announced. So their packets are counted; they are large."""

MOST_AMISS = 0.5
"""Seconds by which a duration that is said may differ from that which is counted: streams need not end together."""

OGG_BYTES = 1 << 16
"""Of an Ogg's start and of its end. A page has up to 65,307."""

_OGG_BEGINS = b"OggS\0\2"
"""The first page of a stream (RFC 3533, 6)."""

BACK = 1.0
"""Seconds. A timestamp that is so far behind the end of the packets before it begins another part."""

_BY_ITS_HEADER = frozenset(("flac", "aiff", "au", "wv", "wav", "w64"))
"""Formats of sound alone whose header says how long the whole is, also where the end is missing."""

_BY_ITS_INDEX = ("mov,", "tta", "ape", "avi")
"""The same, of which an index at the start, or at the very end, says where each packet is."""

ENDS = 1.0
"""Seconds before its end from which on packets are looked for."""

POSITIONS = 48
"""At so many places of a large file the clock is read, to see whether it begins again."""

MOST_OF_A_CLOCK = 2**33
_CLOCK = 90_000
"""Hertz, and the value at which the clock of an MPEG stream begins again by itself (ISO 13818-1, 2.4.3.5)."""

_WITHOUT_A_DURATION = frozenset(("aac", "loas", "amr", "ac3", "eac3", "dts", "dtshd"))
"""Formats that are nothing but frames: no header says how many."""
_UNSEEKABLE_IN_WAV = frozenset(("flac", "adpcm_swf", "adpcm_yamaha", "amrnb"))
"""Codecs without a constant bit rate, by which a seek in a WAV would go, or whose blocks need those before them. They
are decoded from the start."""
_LANGUAGE = re.compile("[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,3}")
_OF_CHANNELS = re.compile(r"([0-9]+) channels \(.*", re.DOTALL)
"""FFmpeg's name of a layout that has no name."""
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
    """What the headers say (MediaFacts). A frame of each track is decoded: only that tells a video's rotation, and
    whether a sound can be heard.
    """
    with _opened(file) as container:
        film = next(_films(container), None)
        picture: VideoStream | None = None
        with contextlib.suppress(CannotDecode):
            picture = _video(container)
        duration = None if _is_estimated(container, file) else _duration(container)
        may_be_joined = container.format.name in _JOINED or _is_ogg_of_several(container, file)
        heard, size = _tried(container, picture)
        is_cut = duration is not None and _is_cut(container, file, duration)
        facts = {
            "container": container.format.name,
            "width": size and size[0],
            "height": size and size[1],
            "has_audio": bool(container.streams.audio),
            "has_video": film is not None,
            "has_picture": picture is not None,
            "tracks": [_described(stream, decodes=stream.index in heard) for stream in _sounds(container)],
        }
    if is_cut:
        duration = None
    begins_again = False
    if may_be_joined and _size(file) > MOST_BYTES_COUNTED:
        begins_again = facts["container"] == "ogg" or _clock_begins_again(file)
        if begins_again:
            duration = None
    elif (duration is None or may_be_joined) and _size(file) <= MOST_BYTES_COUNTED:
        file.seek(0)
        with _opened(file) as container:
            counted, begins_again = _counted_duration(container)
        if duration is None or (counted is not None and abs(counted - duration) > MOST_AMISS):
            duration = counted
    return facts | {"duration": duration, "begins_again": begins_again}, b""


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


def audio_window(
    file: IO[bytes],
    start: float,
    seconds: float,
    track: int | None = None,
    channel: int | None = None,
    layout: Literal["mono", "stereo"] = "mono",
    *,
    begins_again: bool = False,
) -> tuple[dict[str, Any], bytes | bytearray]:
    """Samples of [start, start + seconds) as s16le at 16 kHz; fewer at the recording's end, none after it.

    `track`: which of the sound tracks, from 1; None: the first whose codec is decoded here. `channel`: that channel of
    it alone, from 1, as mono. Otherwise its channels are mixed to `layout`; stereo samples are interleaved.
    `begins_again`: whether its timestamps do (MediaFacts), so that nothing can be sought by them.
    """
    with _opened(file) as container:
        stream = _audio(container, track)
        window = None
        if begins_again:
            frames = _frames_of_joined(container, stream, start - PREROLL)
            return {}, _window(container, frames, start, seconds, channel, layout) or b""
        if start > PREROLL and _seekable(container, stream):
            _seek(container, start - PREROLL)
            frames = _frames(container, stream)
            window = _window(container, frames, start, seconds, channel, layout, is_sought=True)
            if window is None:
                _seek(container, max(start - LONG_PREROLL, 0.0))
        if window is None:
            window = _window(container, _frames(container, stream), start, seconds, channel, layout)
    return {}, window or b""


def _window(
    container: InputContainer,
    frames: Iterator[AudioFrame],
    start: float,
    seconds: float,
    channel: int | None,
    layout: str,
    *,
    is_sought: bool = False,
) -> bytearray | None:
    """What `audio_window` returns, of these frames; None if there is none, or if the first one begins after `start`
    although it was sought.
    """
    size = 4 if layout == "stereo" and channel is None else 2  # bytes of a sample of all channels
    wanted = round(seconds * SAMPLE_RATE)
    window = bytearray()
    origin = _origin(container)
    position = 0 if is_sought else -round(start * SAMPLE_RATE)
    """Of the next sample, counted from `start`; negative before it. Some codecs' packets have no timestamps."""
    first = True
    for frame in _resampled(frames, layout if channel is None else None):
        at = position if frame.time is None else round((frame.time - origin - start) * SAMPLE_RATE)
        if first and at > 0 and is_sought:
            return None
        if first or at > position + GAP:
            silence = min(at, wanted) - max(position, 0)
            window.extend(bytes(size * max(silence, 0)))
            position, first = at, False
        samples = memoryview(frame.planes[_plane(frame, channel)])[: size * frame.samples]
        skipped = min(max(-position, 0), frame.samples)
        room = max(wanted - max(position, 0), 0)
        window.extend(samples[size * skipped : size * (skipped + room)])
        position += frame.samples
        if position >= wanted:
            break
    return None if first else window


def _plane(frame: AudioFrame, channel: int | None) -> int:
    if channel is None:
        return 0
    if channel > frame.layout.nb_channels:
        raise CannotDecode("unsupported", f"this sound track has {frame.layout.nb_channels} channels")
    return channel - 1


def _opened(file: IO[bytes]) -> InputContainer:
    """The container, its headers read. Raises CannotDecode("unsupported") unless its format is on the allow list."""

    def refuse(*_: object) -> Never:
        raise CannotDecode("unsupported", "the container refers to another file")

    limits = {
        "format_whitelist": CONTAINERS,
        "codec_whitelist": f"{VIDEO_CODECS},{AUDIO_CODECS}",
        "protocol_whitelist": "none",
        "max_streams": str(MOST_STREAMS),
    }
    try:
        container = av.open(
            file,
            mode="r",
            options={"max_pixels": str(MOST_PIXELS)},
            container_options=limits,
            metadata_errors="replace",
            io_open=refuse,
        )
    except av.error.ArgumentError as error:
        raise CannotDecode("unsupported", "not audio or video in a format that is decoded here") from error
    for stream in container.streams.audio:
        _keep_no_order(stream)
    return container


def _keep_no_order(stream: AudioStream) -> None:
    """Forgets which loudspeaker each channel is for, where they stand in an order of the file's own.

    PyAV shares the memory of such a layout with FFmpeg, and both give it back: the process ends. So the layout is asked
    for once, and replaced before PyAV gives it back.
    """
    context = stream.codec_context
    layout = None if context is None else context.layout
    if layout is not None and (found := _OF_CHANNELS.fullmatch(layout.name)):
        context.layout = f"{found[1]} channels"


def _films(container: InputContainer) -> Iterator[VideoStream]:
    """The video streams that are no stills such as cover art."""
    for stream in container.streams.video:
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails):
            yield stream


def _video(container: InputContainer) -> VideoStream | None:
    """The first video stream that is no still and passes the allow list and the pixel cap; None if there is no film.

    Raises CannotDecode if none passes: why the first does not.
    """
    films = list(_films(container))
    if not films:
        return None
    stream = next((film for film in films if _allowed(film, VIDEO_CODECS) and not _is_too_large(film)), films[0])
    _allow(stream, VIDEO_CODECS)
    if _is_too_large(stream):
        raise CannotDecode("too_large", "the video's picture is larger than 8192 x 4320")
    return stream


def _is_too_large(film: VideoStream) -> bool:
    return film.codec_context.width * film.codec_context.height > MOST_PIXELS


def _sounds(container: InputContainer) -> list[AudioStream]:
    return list(container.streams.audio[:MOST_TRACKS])


def _audio(container: InputContainer, track: int | None) -> AudioStream:
    """The sound track with this number, or the first that the allow list lets through. Raises CannotDecode."""
    tracks = _sounds(container)
    if not tracks:
        raise CannotDecode("unsupported", "there is no sound in it")
    if track is not None:
        if track > len(tracks):
            raise CannotDecode("unsupported", f"it has {len(tracks)} sound tracks")
        tracks = [tracks[track - 1]]
    stream = next((each for each in tracks if _allowed(each, AUDIO_CODECS)), tracks[0])
    _allow(stream, AUDIO_CODECS)
    return stream


def _allowed(stream: AudioStream | VideoStream, codecs: str) -> bool:
    context = stream.codec_context
    return context is not None and context.name in codecs.split(",")


def _allow(stream: AudioStream | VideoStream, codecs: str) -> None:
    if not _allowed(stream, codecs):
        kind = "sound" if isinstance(stream, AudioStream) else "picture"
        raise CannotDecode("unsupported", f"its {kind} is in a codec that is not decoded here: {_codec(stream)}")
    context = stream.codec_context
    context.thread_count = 1
    context.options = {"max_pixels": str(MOST_PIXELS)}


def _codec(stream: AudioStream | VideoStream) -> str:
    context = stream.codec_context
    return "an unknown one" if context is None else str(context.codec.canonical_name)


def _tried(container: InputContainer, picture: VideoStream | None) -> tuple[set[int], tuple[int, int] | None]:
    """The indices of the sound tracks that can be decoded, and the sides of the picture as it is shown.

    A track of which the beginning holds no packet is taken to be decodable if its codec is.
    """
    waiting = {}
    for stream in _sounds(container):
        if _allowed(stream, AUDIO_CODECS):
            _allow(stream, AUDIO_CODECS)
            waiting[stream.index] = 0
    size, read = None, 0
    failed, heard = set(), set()
    if waiting:
        for packet in _until_broken(container):
            read += packet.size
            index = packet.stream_index
            if index in waiting or (picture is not None and size is None and index == picture.index):
                frames = _decoded(packet)
                if index not in waiting:
                    size = _displayed(frames[0], picture) if frames and picture is not None else None
                elif frames:
                    heard.add(index)
                    del waiting[index]
                elif frames is None:
                    waiting[index] += 1
                    if waiting[index] == PACKETS_TRIED:
                        failed.add(index)
                        del waiting[index]
            if not waiting or read > MOST_BYTES_TRIED:
                break
    if picture is not None and size is None:
        size = _coded(picture)
        with contextlib.suppress(CannotDecode, StopIteration):
            size = _displayed(next(_frames(container, picture)), picture)
    return heard | {index for index, damaged in waiting.items() if not damaged}, size


def _decoded(packet: Packet[Any]) -> list[Any] | None:
    """The frames of a packet; None if it is damaged."""
    try:
        return packet.decode()
    except av.error.FFmpegError:
        return None


def _coded(stream: VideoStream) -> tuple[int, int] | None:
    context = stream.codec_context
    return (context.width, context.height) if context.width and context.height else None


def _described(stream: AudioStream, *, decodes: bool) -> dict[str, Any]:
    """A sound track (SoundTrack)."""
    context = stream.codec_context
    said = {name.lower(): value for name, value in stream.metadata.items()}
    language = said.get("language", "")
    title = "".join(c for c in said.get("title") or said.get("name") or "" if c.isprintable())
    return {
        "codec": None if context is None else _codec(stream),
        "channels": None if context is None else context.channels or None,
        "language": language if _LANGUAGE.fullmatch(language) and language != "und" else None,
        "title": title[:LONGEST_TITLE].strip() or None,
        "decodes": decodes,
    }


def _frames(container: InputContainer, stream: AudioStream | VideoStream) -> Iterator[Any]:
    """Decoded frames from the current position, without damaged packets. Raises CannotDecode if no frame is left."""
    return _decoded_frames(_until_broken(container, stream))


def _frames_of_joined(container: InputContainer, stream: AudioStream, start: float) -> Iterator[AudioFrame]:
    """As `_frames`, of a recording whose timestamps begin again, as if they went on. What ends before `start`, in
    seconds, is not decoded.
    """
    origin, going_on = _origin(container), _GoingOn(stream)

    def packets() -> Iterator[Packet[Any]]:
        for packet in _until_broken(container, stream):
            if packet.pts is None or going_on.moved(packet) - origin >= start:
                yield packet

    return _decoded_frames(packets())


class _GoingOn:
    """By how much a stream's packets are later than their timestamps say, where these begin again on the way."""

    def __init__(self, stream: Stream) -> None:
        self._unit = float(stream.time_base or 0)
        """Seconds. A packet's own is the same, but takes longer to ask for than all else here."""
        self._later = 0.0
        self._sent = -math.inf
        self._ended = -math.inf
        self.begins_again = False

    def times(self, packet: Packet[Any]) -> tuple[float, float]:
        """When the stream's next packet begins and ends, in seconds. It has a timestamp."""
        begins = sent = (packet.pts or 0) * self._unit + self._later
        if packet.dts is not None:
            sent = packet.dts * self._unit + self._later
        if sent < self._sent - BACK:
            more = self._ended - sent
            self._later, begins, sent = self._later + more, begins + more, sent + more
            self.begins_again = True
        self._sent = sent
        ends = begins + (packet.duration or 0) * self._unit
        self._ended = max(self._ended, ends)
        return begins, ends

    def moved(self, packet: Packet[Any]) -> float:
        """When the stream's next packet ends, in seconds. Its timestamp then says so, too."""
        _, ends = self.times(packet)
        packet.pts = (packet.pts or 0) + round(self._later / (self._unit or 1))
        return ends


def _decoded_frames(packets: Iterator[Packet[Any]]) -> Iterator[Any]:
    found = False
    damage: Exception | None = None
    for packet in packets:
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


def _until_broken(container: InputContainer, stream: AudioStream | VideoStream | None = None) -> Iterator[Any]:
    """The packets up to where the container breaks off: one stream's, without the others being read, or all."""
    for other in container.streams:
        other.discard = Discard.default if stream is None or other.index == stream.index else Discard.all
    with contextlib.suppress(av.error.InvalidDataError, av.error.EOFError):
        yield from container.demux() if stream is None else container.demux(stream)


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
    if frame.colorspace == _UNSPECIFIED and frame.height >= ROWS_OF_BT709:
        frame.colorspace = _BT709
    small = frame.reformat(
        width=max(1, round(width * scale)), height=max(1, round(height * scale)), format="rgb24", threads=1
    )
    image = Image.frombytes(
        "RGB", (small.width, small.height), bytes(small.planes[0]), "raw", "RGB", small.planes[0].line_size
    )
    image = to_srgb(image, Coding(int(frame.color_primaries), int(frame.color_trc)))
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


def _origin(container: InputContainer) -> float:
    """The timestamp, in seconds, of the recording's start."""
    return float((container.start_time or 0) / _MICROSECONDS)


def _seek(container: InputContainer, seconds: float) -> None:
    """Seeks to the last keyframe before `seconds`. If the container cannot seek, its position stays."""
    with contextlib.suppress(av.error.PermissionError, av.error.InvalidDataError, av.error.OSError, av.error.EOFError):
        container.seek(round((_origin(container) + seconds) * _MICROSECONDS))


def _seekable(container: InputContainer, stream: AudioStream) -> bool:
    return container.format.name not in ("wav", "w64") or stream.codec_context.name not in _UNSEEKABLE_IN_WAV


def _square(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """The sides in square pixels. One side grows, as in browsers. Shapes that no screen has do not count."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / MOST_ASPECT <= aspect <= MOST_ASPECT:
        return frame.width, frame.height
    return round(frame.width * max(aspect, 1.0)), round(frame.height / min(aspect, 1.0))


def _displayed(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    width, height = _square(frame, stream)
    return (height, width) if _turn(frame) in _ACROSS.values() else (width, height)


def _resampled(frames: Iterator[AudioFrame], layout: str | None) -> Iterator[AudioFrame]:
    """The same sound as s16 at 16 kHz, mixed to a layout, also if its rate or layout changes on the way.

    Without a layout its channels stay, each in a plane of its own.
    """
    for (_, name, _), alike in itertools.groupby(frames, key=lambda f: (f.format.name, f.layout.name, f.sample_rate)):
        if layout is not None and (weights := _weights(name)):
            alike = _weighted(alike, weights)
        resampler = AudioResampler(format="s16p" if layout is None else "s16", layout=layout, rate=SAMPLE_RATE)
        for frame in alike:
            yield from resampler.resample(frame)
        yield from (rest for rest in resampler.resample(None) if rest is not None)


def _weights(layout: str) -> list[float] | None:
    """How loud each channel of this layout (FFmpeg's name) is in a mix; None if FFmpeg's own mix is right.

    Recorders of many tracks do not say what a channel is. FFmpeg guesses it by their number, then leaves out what it
    takes for a subwoofer, or channels that no room of loudspeakers has, or refuses. It does not mix ambisonics, whose
    first channel is what is heard from all sides.
    """
    channels = av.AudioLayout(layout).nb_channels
    if layout.startswith("ambisonic"):
        return [1.0] + [0.0] * (channels - 1)
    if channels > MOST_LOUDSPEAKERS or (channels > STEREO and layout == f"{channels} channels"):
        return [1 / math.sqrt(channels)] * channels
    return None


def _weighted(frames: Iterator[AudioFrame], weights: list[float]) -> Iterator[AudioFrame]:
    """Frames that are alike, as mono."""
    first = next(frames)
    graph = Graph()
    graph.threads = 1
    source = graph.add_abuffer(
        format=first.format.name, sample_rate=first.sample_rate, layout=first.layout.name, time_base=first.time_base
    )
    mix = "+".join(f"{weight:.4f}*c{channel}" for channel, weight in enumerate(weights))
    graph.link_nodes(source, graph.add("pan", f"mono|c0={mix}"), graph.add("abuffersink")).configure()
    for frame in itertools.chain((first,), frames):
        graph.push(frame)
        yield from _pulled(graph)
    graph.push(None)
    yield from _pulled(graph)


def _pulled(graph: Graph) -> Iterator[AudioFrame]:
    with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
        while isinstance(frame := graph.pull(), AudioFrame):
            yield frame


def _is_estimated(container: InputContainer, file: IO[bytes]) -> bool:
    """Whether the demuxer only guesses the duration, from the bit rate of the first packets and the file's size."""
    match container.format.name:
        case "mp3":
            return not _counts_its_frames(file)
        case "flac":
            file_starts = _at(file, 0, 26)
            # STREAMINFO's number of samples, 36 bits; 0: unknown (RFC 9639, 8.2).
            return file_starts[:4] != b"fLaC" or int.from_bytes(file_starts[21:26]) & 0xF_FFFF_FFFF == 0
        case "wav" | "w64":
            return any((s.codec_context is None or _varies(s.codec_context.name)) for s in container.streams.audio)
        case name:
            return name in _WITHOUT_A_DURATION


def _is_cut(container: InputContainer, file: IO[bytes], duration: float) -> bool:
    """Whether the end of a recording is missing, so that it is shorter than its header says."""
    name, size = container.format.name, _size(file)
    if name.startswith("matroska"):
        return _end_of_segment(file) > size
    if name.startswith(_BY_ITS_INDEX):
        lasts = [stream.index_entries[-1] for stream in container.streams if len(stream.index_entries)]
        return any(last.pos + last.size > size for last in lasts)
    if name not in _BY_ITS_HEADER or (name in ("wav", "w64") and not _is_coded(container)):
        return False  # of PCM in a WAV FFmpeg counts the bytes that are there
    if name == "wv" and size > MOST_BYTES_COUNTED:
        return False  # nothing can be sought in it
    _seek(container, max(duration - ENDS, 0.0))
    read, ends, timeless = 0, 0.0, False
    for packet in _until_broken(container, next(iter(container.streams.audio), None)):
        read += packet.size
        if packet.pts is not None and packet.time_base:
            ends = max(ends, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        elif packet.size:
            timeless = True
        if read > MOST_BYTES_TRIED:
            break
    return (ends > 0 or not timeless) and ends - _origin(container) < duration - MOST_AMISS


def _is_coded(container: InputContainer) -> bool:
    return any(s.codec_context is None or not s.codec_context.name.startswith("pcm_") for s in container.streams.audio)


def _end_of_segment(file: IO[bytes]) -> int:
    """Where a Matroska's segment ends by its header, in bytes of the file; 0: it does not say (RFC 8794, 4 and 6.2)."""
    head = _at(file, 0, 4096)
    at = head.find(b"\x18\x53\x80\x67") + 4
    if at < 4 or at >= len(head) or not head[at]:
        return 0
    length = 9 - head[at].bit_length()
    bits = 7 * length
    said = int.from_bytes(head[at : at + length]) & ((1 << bits) - 1)
    return 0 if said == (1 << bits) - 1 else at + length + said


def _clock_begins_again(file: IO[bytes]) -> bool:
    """Whether the clock of a large MPEG stream goes back on the way, by its readings at POSITIONS places.

    It also begins again by itself after 26.5 hours, which does not count.
    """
    size, last = _size(file), None
    for place in range(POSITIONS):
        now = _clock(_at(file, size * place // POSITIONS, BLOCK))
        if now is None:
            continue
        if last is not None and last - MOST_OF_A_CLOCK // 2 < now < last - BACK * _CLOCK:
            return True
        last = now
    return False


def _clock(data: bytes) -> int | None:
    """The first reading of a transport stream's clock (PCR) or of a program stream's (SCR) in these bytes."""
    found = data.find(b"\0\0\1\xba")
    if 0 <= found < len(data) - 10 and data[found + 4] >> 6 == 1:  # ISO 13818-1, 2.5.3.3
        bits = int.from_bytes(data[found + 4 : found + 10])
        return (bits >> 43 & 7) << 30 | (bits >> 27 & 0x7FFF) << 15 | bits >> 11 & 0x7FFF
    for length in (188, 192):
        start = next(
            (
                at
                for at in range(length)
                if len(data) > 8 * length and set(data[at : at + 8 * length : length]) == {0x47}
            ),
            None,
        )
        if start is None:
            continue
        clocks: dict[int, int] = {}
        for at in range(start, len(data) - 12, length):
            # An adaptation field of 7 bytes or more that has the flag of a clock (2.4.3.4).
            if data[at] == 0x47 and data[at + 3] & 0x20 and data[at + 4] >= 7 and data[at + 5] & 0x10:
                pid = int.from_bytes(data[at + 1 : at + 3]) & 0x1FFF
                clocks.setdefault(pid, int.from_bytes(data[at + 6 : at + 11]) >> 7)
        if clocks:
            return clocks[min(clocks)]
    return None


def _varies(codec: str) -> bool:
    return not codec.startswith(("pcm_", "adpcm_", "gsm"))


def _counts_its_frames(file: IO[bytes]) -> bool:
    """Whether an MP3's first frame says how many follow: Xing's header, LAME's (Info) or Fraunhofer's (VBRI).

    It counts only where the bytes that it says are there, too: a file may be cut, or another one may follow.
    """
    at = 0
    while (head := _at(file, at, 10))[:3] == b"ID3" and len(head) == 10:
        at += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    head = _at(file, at, 4096)
    for mark, numbers in ((b"Xing", ">4x3I"), (b"Info", ">4x3I"), (b"VBRI", ">10x2I")):
        found = head.find(mark)
        if found >= 0 and len(head) >= found + struct.calcsize(numbers):
            *flags, first, second = struct.unpack_from(numbers, head, found)
            stated = second if flags else first
            if flags and flags[0] & _HAS_FRAMES_AND_BYTES != _HAS_FRAMES_AND_BYTES:
                return False
            return bool(abs(_size(file) - at - stated) <= max(MOST_BYTES_BEHIND_MP3, stated // 100))
    return False


def _is_ogg_of_several(container: InputContainer, file: IO[bytes]) -> bool:
    """Whether an Ogg is recordings one behind the other, as of web radios (RFC 3533, 3), or begins late.

    Then the stream that its last page belongs to does not begin at its start.
    """
    if container.format.name != "ogg":
        return False
    start, serials, at = _at(file, 0, OGG_BYTES), set(), 0
    while start[at : at + 6] == _OGG_BEGINS and len(start) > at + 27:
        serials.add(start[at + 14 : at + 18])
        segments = start[at + 26]
        at += 27 + segments + sum(start[at + 27 : at + 27 + segments])
    end = _at(file, max(_size(file) - OGG_BYTES, at), OGG_BYTES)
    last = end.rfind(b"OggS")
    ends_another = last >= 0 and end[last + 14 : last + 18] not in serials
    return _origin(container) > BACK or ends_another or _OGG_BEGINS in end


def _at(file: IO[bytes], position: int, length: int) -> bytes:
    """Bytes of the file, whose position stays."""
    before = file.tell()
    file.seek(position)
    found = file.read(length)
    file.seek(before)
    return found


def _size(file: IO[bytes]) -> int:
    """Bytes of the file, whose position stays."""
    before = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(before)
    return size


def _duration(container: InputContainer) -> float | None:
    """Seconds by the container's header, or else by its longest stream's."""
    if container.duration:
        return float(container.duration / _MICROSECONDS)
    known = [float(s.duration * s.time_base) for s in container.streams if s.duration and s.time_base]
    return max(known, default=None)


def _counted_duration(container: InputContainer) -> tuple[float | None, bool]:
    """Seconds from the first packet to the end of the last, and whether timestamps begin again on the way.

    None if there are too many to count.
    """
    first, last = math.inf, -math.inf
    streams = {stream.index: _GoingOn(stream) for stream in (*_films(container), *container.streams.audio)}
    for packets, packet in enumerate(_until_broken(container), start=1):
        if packets > MOST_PACKETS_COUNTED:
            return None, False
        stream = streams.get(packet.stream_index)
        if stream is not None and packet.pts is not None:
            begins, ends = stream.times(packet)
            first, last = min(first, begins), max(last, ends)
    return last - first if streams and last >= first else None, any(stream.begins_again for stream in streams.values())
