"""Containers of audio and video, and what is in them: streams, packets, frames. Runs in the child.

Containers and codecs come from allow lists. A container that refers to another file (a playlist, a concatenation, an
external track) is refused. What PyAV would import with the first subtitles is imported here: a confined process cannot.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import IO, Any, Never

import av
import av.subtitles.codeccontext
import av.subtitles.subtitle
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from media_core.decoding.failures import CannotDecode
from media_core.decoding.headers import mended

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,mp3,wav,w64,flac,aac,loas,amr,aiff,caf,au,ac3,eac3,dts,dtshd,wv,tta,ape,"
    "avi,asf,flv,mxf,dv,mpegts,mpeg,rm,voc,iff,mpc,mpc8,dsf,mlp,truehd,dss,gsm,nistsphere,"
    "ivf,yuv4mpegpipe,wtv,h264,hevc,m4v,mpegvideo,obu"
)
BARE = frozenset(("h264", "hevc", "m4v", "mpegvideo", "obu"))
"""Streams of pictures without a container. They say no times, and what begins like one need not be one."""

VIDEO_CODECS = (
    "h264,hevc,vp8,vp9,av1,libdav1d,mpeg4,mpeg1video,mpeg2video,theora,mjpeg,h263,prores,dnxhd,dvvideo,flv,vp6,vp6f,"
    "msmpeg4v1,msmpeg4v2,msmpeg4,wmv1,wmv2,wmv3,vc1,rv10,rv20,rv30,rv40,"
    "ffv1,huffyuv,ffvhuff,utvideo,magicyuv,lagarith,rawvideo,v210,r210,v308,v408,v410,png,jpeg2000,cfhd,qtrle,mjpegb,"
    "cinepak,svq1,svq3,rpza,smc,8bps,msvideo1,msrle,indeo2,indeo3,indeo4,indeo5,h261,h263i,vp3,vp4,vp5,vp7,dirac,"
    "flashsv,flashsv2,zmbv,fraps,tscc2,mss1,mss2,"
    "apv,vvc,hap,speedhq,aic,camtasia,g2m,msa1,mts2,screenpresso,wmv3image,vc1image,r10k,y41p,avui,targa,tiff"
)
AUDIO_CODECS = (
    "aac,aac_latm,mp3,mp3float,mp2,mp2float,mp1,mp1float,opus,vorbis,speex,flac,alac,wavpack,tta,ape,amrnb,amrwb,"
    "ac3,eac3,dca,wmav1,wmav2,wmapro,wmalossless,wmavoice,dvaudio,nellymoser,gsm,gsm_ms,"
    "adpcm_ima_wav,adpcm_ms,adpcm_ima_qt,adpcm_swf,adpcm_yamaha,g722,g726,g726le,g723_1,g729,truespeech,ilbc,qcelp,evrc,"
    "pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,"
    "pcm_f64be,pcm_alaw,pcm_mulaw,pcm_bluray,pcm_dvd,pcm_s64le,pcm_s64be,pcm_s8_planar,s302m,"
    "adpcm_sbpro_2,adpcm_sbpro_3,adpcm_sbpro_4,8svx_exp,8svx_fib,mpc7,mpc8,mlp,truehd,"
    "dsd_lsbf,dsd_msbf,dsd_lsbf_planar,dsd_msbf_planar,dst,dss_sp,cook,sipr,real_144,real_288,atrac3"
)
MOST_PIXELS = 8192 * 4320
"""Most pixels of a video's frame: 8K DCI, the largest in use. The memory limit bounds how many a decoder keeps."""

MOST_STREAMS = 500
"""Most streams of a container. A film may carry a hundred fonts for its subtitles, each as a stream."""

MOST_TRACKS = 16
"""So many sound tracks can be heard; the rest is passed over."""

MOST_BYTES_TRIED = 8 << 20
"""So much is read to see which sound tracks can be decoded, or whether the end of a recording is there."""

_MICROSECONDS = 1_000_000

BACK = 1.0
"""Seconds. A timestamp that is so far behind the end of the packets before it begins another part."""
AMR_RATE, AMR_SAMPLES, AMR_PAUSE_BYTES = 8_000, 160, 6
_AMR_PAUSES = (8, 15)
"""Types of frames (3GPP TS 26.101, table 1a): the noise of a pause, and nothing."""

_OF_CHANNELS = re.compile(r"([0-9]+) channels \(.*", re.DOTALL)
"""FFmpeg's name of a layout that has no name."""


def opened(file: IO[bytes]) -> InputContainer:
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
            mended(file),
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


def films_of(container: InputContainer) -> Iterator[VideoStream]:
    """The video streams that are no stills such as cover art."""
    for stream in container.streams.video:
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails):
            yield stream


def film_to_show(container: InputContainer) -> VideoStream | None:
    """The first video stream that is no still and passes the allow list and the pixel cap; None if there is no film.

    Raises CannotDecode if none passes: why the first does not.
    """
    films = list(films_of(container))
    if not films:
        return None
    stream = next((film for film in films if is_allowed(film, VIDEO_CODECS) and not _is_too_large(film)), films[0])
    allow(stream, VIDEO_CODECS)
    if _is_too_large(stream):
        raise CannotDecode("too_large", "the video's picture is larger than 8192 x 4320")
    return stream


def _is_too_large(film: VideoStream) -> bool:
    return film.codec_context.width * film.codec_context.height > MOST_PIXELS


def sounds_of(container: InputContainer) -> list[AudioStream]:
    """The sound tracks that can be asked for, in their order."""
    return list(container.streams.audio[:MOST_TRACKS])


def sound_to_hear(container: InputContainer, track: int | None) -> AudioStream:
    """The sound track with this number, or the first that the allow list lets through. Raises CannotDecode."""
    tracks = sounds_of(container)
    if not tracks:
        raise CannotDecode("unsupported", "there is no sound in it")
    if track is not None:
        if track > len(tracks):
            raise CannotDecode("unsupported", f"it has {len(tracks)} sound tracks")
        tracks = [tracks[track - 1]]
    stream = next((each for each in tracks if is_allowed(each, AUDIO_CODECS)), tracks[0])
    allow(stream, AUDIO_CODECS)
    return stream


def is_allowed(stream: AudioStream | VideoStream, codecs: str) -> bool:
    """Whether the stream's codec is one of `codecs`, a list with commas."""
    context = stream.codec_context
    return context is not None and context.name in codecs.split(",")


def allow(stream: AudioStream | VideoStream, codecs: str) -> None:
    """Limits the stream's decoder. Raises CannotDecode("unsupported") unless its codec is one of `codecs`."""
    if not is_allowed(stream, codecs):
        kind = "sound" if isinstance(stream, AudioStream) else "picture"
        raise CannotDecode("unsupported", f"its {kind} is in a codec that is not decoded here: {codec_of(stream)}")
    context = stream.codec_context
    context.thread_count = 1
    context.options = {"max_pixels": str(MOST_PIXELS)}


def codec_of(stream: AudioStream | VideoStream) -> str:
    """The codec's name, for people."""
    context = stream.codec_context
    return "an unknown one" if context is None else str(context.codec.canonical_name)


def frames_of(container: InputContainer, stream: AudioStream | VideoStream) -> Iterator[Any]:
    """Decoded frames from the current position, without damaged packets. Raises CannotDecode if no frame is left."""
    return _decoded_frames(until_broken(container, stream))


def frames_of_joined(container: InputContainer, stream: AudioStream, start: float) -> Iterator[AudioFrame]:
    """As `frames_of`, of a recording whose timestamps begin again, as if they went on. What ends before `start`, in
    seconds, is not decoded.
    """
    origin, going_on = start_of(container), GoingOn(stream)

    def packets() -> Iterator[Packet[Any]]:
        for packet in until_broken(container, stream):
            if packet.pts is None or going_on.moved(packet) - origin >= start:
                yield packet

    return _decoded_frames(packets())


class GoingOn:
    """By how much a stream's packets are later than their timestamps say, where these begin again on the way."""

    def __init__(self, stream: Stream) -> None:
        self._unit = float(stream.time_base or 0)
        """Seconds. A packet's own is the same, but takes longer to ask for than all else here."""
        self._later = 0.0
        self._sent = -math.inf
        self._ended = -math.inf
        self._said: int | None = None
        self._stood = 0.0
        self._is_sound = isinstance(stream, AudioStream)
        self.begins_again = False

    def times(self, packet: Packet[Any]) -> tuple[float, float]:
        """When the stream's next packet begins and ends, in seconds. It has a timestamp."""
        begins = sent = (packet.pts or 0) * self._unit + self._later
        if packet.dts is not None:
            sent = packet.dts * self._unit + self._later
        if self._is_sound and packet.pts == self._said:  # the clock stood still
            self._stood = self._ended - begins
            begins, sent = begins + self._stood, sent + self._stood
            self.begins_again = self.begins_again or self._stood > BACK
        else:
            self._said, self._stood = packet.pts, 0.0
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
        packet.pts = (packet.pts or 0) + round((self._later + self._stood) / (self._unit or 1))
        return ends


def _decoded_frames(packets: Iterator[Packet[Any]]) -> Iterator[Any]:
    found = False
    damage: Exception | None = None
    for packet in packets:
        try:
            frames = [_pause(packet)] if is_pause(packet) else packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            damage = error
            continue
        found = found or bool(frames)
        yield from frames
    if damage is not None and not found:
        raise CannotDecode("corrupt", "nothing in it can be decoded") from damage


def is_pause(packet: Packet[Any]) -> bool:
    """Whether the packet is AMR and says that nobody speaks. FFmpeg does not decode such a packet."""
    if not 0 < packet.size <= AMR_PAUSE_BYTES or packet.stream.codec_context.name != "amrnb":
        return False
    return bytes(packet)[0] >> 3 & 0xF in _AMR_PAUSES


def _pause(packet: Packet[Any]) -> AudioFrame:
    """Its 20 ms of silence."""
    silence = AudioFrame("fltp", "mono", AMR_SAMPLES)
    silence.planes[0].update(bytes(silence.planes[0].buffer_size))
    silence.sample_rate, silence.pts, silence.time_base = AMR_RATE, packet.pts, packet.time_base
    return silence


def until_broken(container: InputContainer, stream: AudioStream | VideoStream | None = None) -> Iterator[Any]:
    """The packets up to where the container breaks off: one stream's, without the others being read, or all.

    Older demuxers say -1 there, which reads as a lack of permission.
    """
    for other in container.streams:
        other.discard = Discard.default if stream is None or other.index == stream.index else Discard.all
    with contextlib.suppress(av.error.InvalidDataError, av.error.EOFError, av.error.PermissionError):
        yield from container.demux() if stream is None else container.demux(stream)


def start_of(container: InputContainer) -> float:
    """The timestamp, in seconds, of the recording's start."""
    return float((container.start_time or 0) / _MICROSECONDS)


def seek_to(container: InputContainer, seconds: float) -> None:
    """Seeks to the last keyframe before `seconds`. If the container cannot seek, its position stays."""
    with contextlib.suppress(av.error.PermissionError, av.error.InvalidDataError, av.error.OSError, av.error.EOFError):
        container.seek(round((start_of(container) + seconds) * _MICROSECONDS))


def stated_duration(container: InputContainer) -> float | None:
    """Seconds by the container's header, or else by its longest stream's."""
    if container.duration and container.duration > 0:
        return float(container.duration / _MICROSECONDS)
    known = [
        float(s.duration * s.time_base) for s in container.streams if s.duration and s.duration > 0 and s.time_base
    ]
    return max(known, default=None)
