"""A window of a recording's samples. Runs in the child."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import IO, Any, Literal

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph

from media_core.decoding.containers import frames_of, frames_of_joined, opened, seek_to, sound_to_hear, start_of
from media_core.decoding.encryption import encrypted
from media_core.decoding.failures import CannotDecode

SAMPLE_RATE = 16_000
"""Hertz; the rate that speech models take."""

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
_UNSEEKABLE_IN_WAV = frozenset(("flac", "adpcm_swf", "adpcm_yamaha", "amrnb"))
"""Codecs without a constant bit rate, by which a seek in a WAV would go, or whose blocks need those before them. They
are decoded from the start."""

_MISPLACED_IN_OGG = frozenset(("flac", "speex", "libspeex"))
"""Codecs whose packets do not say how long they are. Behind a seek FFmpeg gives some a wrong time. So the packets
before a window are read, and not decoded."""


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
    with opened(file) as container, _encryption_told(file):
        stream = sound_to_hear(container, track)
        window = None
        if begins_again or (container.format.name == "ogg" and stream.codec_context.name in _MISPLACED_IN_OGG):
            frames = frames_of_joined(container, stream, start - PREROLL)
            return {}, _window(container, frames, start, seconds, channel, layout) or b""
        if start > PREROLL and _seekable(container, stream):
            seek_to(container, start - PREROLL)
            frames = frames_of(container, stream)
            window = _window(container, frames, start, seconds, channel, layout, is_sought=True)
            if window is None:
                seek_to(container, max(start - LONG_PREROLL, 0.0))
        if window is None:
            window = _window(container, frames_of(container, stream), start, seconds, channel, layout)
    return {}, window or b""


@contextlib.contextmanager
def _encryption_told(file: IO[bytes]) -> Iterator[None]:
    """Tells an encrypted sound from a damaged one."""
    try:
        yield
    except CannotDecode as error:
        if error.code == "corrupt" and encrypted(file)[1]:
            raise CannotDecode("unsupported", "its sound is encrypted") from error
        raise


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
    origin = start_of(container)
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


def _seekable(container: InputContainer, stream: AudioStream) -> bool:
    if container.format.name in ("dss", "loas"):  # whose packets, or the first of them, say no time
        return False
    return container.format.name not in ("wav", "w64") or stream.codec_context.name not in _UNSEEKABLE_IN_WAV


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
