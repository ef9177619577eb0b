"""What is in a file of audio or video. Runs in the child."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from typing import IO, Any

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media_core.decoding.containers import (
    AUDIO_CODECS,
    BARE,
    MOST_BYTES_TRIED,
    allow,
    codec_of,
    film_to_show,
    films_of,
    frames_of,
    is_allowed,
    is_pause,
    opened,
    sounds_of,
    stated_duration,
    until_broken,
)
from media_core.decoding.durations import (
    JOINED,
    MOST_AMISS,
    MOST_AMISS_OF,
    MOST_BYTES_COUNTED,
    begins_late,
    clock_begins_again,
    counted_duration,
    ends_elsewhere,
    ends_within_a_box,
    is_avi_of_several,
    is_estimated,
    is_matroska_of_several,
    is_ogg_of_several,
    size_of,
)
from media_core.decoding.encryption import encrypted
from media_core.decoding.failures import CannotDecode
from media_core.decoding.films import displayed_sides, video_frame
from media_core.decoding.recordings import audio_window

PACKETS_TRIED = 10
"""A track of which so many packets are damaged, and none is right, can't be decoded."""

LONGEST_TITLE = 60
"""Characters of a sound track's title."""
_LANGUAGE = re.compile("[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,3}")


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
    with opened(file) as container:
        name = container.format.name
        has_neither = not (container.streams.video or container.streams.audio)
        if has_neither and name.startswith("mov,") and ends_within_a_box(file):
            raise CannotDecode("corrupt", "it is damaged, or its end is missing")
        film = next(films_of(container), None)
        picture: VideoStream | None = None
        no_picture = None
        try:
            picture = film_to_show(container)
        except CannotDecode as error:
            no_picture = error.detail
        if name.startswith("mov,") and picture is not None and encrypted(file)[0]:
            no_picture = "its picture is encrypted"
        is_bare = name in BARE
        duration = None if is_bare or is_estimated(container, file) else stated_duration(container)
        may_be_joined = (
            name in JOINED
            or begins_late(container)
            or is_ogg_of_several(container, file)
            or is_matroska_of_several(container, file)
            or is_avi_of_several(container, file)
        )
        heard, size = _tried(container, picture)
        if is_bare and size is None:
            raise CannotDecode("unsupported", "not a film")
        is_cut = duration is not None and ends_elsewhere(container, file, duration)
        facts = {
            "container": name,
            "width": size and size[0],
            "height": size and size[1],
            "has_audio": bool(container.streams.audio),
            "has_video": film is not None,
            "no_picture": no_picture,
            "tracks": [_described(stream, decodes=stream.index in heard) for stream in sounds_of(container)],
        }
    if is_cut:
        duration = None
    begins_again = False
    if name == "flac" and clock_begins_again(file, name):
        begins_again, duration = True, None  # FFmpeg loses some of it where they meet
    elif may_be_joined and size_of(file) > MOST_BYTES_COUNTED:
        begins_again = name == "ogg" or clock_begins_again(file, name)
        if begins_again:
            duration = None
    elif not is_bare and (duration is None or may_be_joined) and size_of(file) <= MOST_BYTES_COUNTED:
        file.seek(0)
        with opened(file) as container:
            counted, begins_again = counted_duration(container)
        if duration is None or (counted is not None and abs(counted - duration) > MOST_AMISS_OF.get(name, MOST_AMISS)):
            duration = counted
    return facts | {"duration": duration, "begins_again": begins_again}, b""


def _tried(container: InputContainer, picture: VideoStream | None) -> tuple[set[int], tuple[int, int] | None]:
    """The indices of the sound tracks that can be decoded, and the sides of the picture as it is shown.

    A track of which the beginning holds no packet is taken to be decodable if its codec is.
    """
    waiting = {}
    for stream in sounds_of(container):
        if is_allowed(stream, AUDIO_CODECS):
            allow(stream, AUDIO_CODECS)
            waiting[stream.index] = 0
    size, read = None, 0
    failed, heard = set(), set()
    if waiting:
        for packet in until_broken(container):
            read += packet.size
            index = packet.stream_index
            if index in waiting or (picture is not None and size is None and index == picture.index):
                frames = _decoded(packet)
                if index not in waiting:
                    size = displayed_sides(frames[0], picture) if frames and picture is not None else None
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
            size = displayed_sides(next(frames_of(container, picture)), picture)
    return heard | {index for index, damaged in waiting.items() if not damaged}, size


def _decoded(packet: Packet[Any]) -> list[Any] | None:
    """The frames of a packet; None if it is damaged."""
    if is_pause(packet):
        return []
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
        "codec": None if context is None else codec_of(stream),
        "channels": None if context is None else context.channels or None,
        "language": language if _LANGUAGE.fullmatch(language) and language != "und" else None,
        "title": title[:LONGEST_TITLE].strip() or None,
        "decodes": decodes,
    }
