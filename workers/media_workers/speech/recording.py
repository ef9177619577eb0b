"""The sound of a stored recording, decoded a window at a time in confined children."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from media_core.decoding import DecodingFailed, MediaFacts, SoundTrack
from media_core.decoding.pool import DecodingPool
from media_core.decoding.results import FAILURES_OF_THE_MACHINE
from media_core.errors import Refused, Unfinished
from media_core.store.base import ObjectMissing
from media_core.transcripts.requests import MOST_SPLIT, TranscriptionRequest
from media_workers.speech.chunks import SAMPLE_RATE, SECONDS_PER_FRAME, Samples
from media_workers.timed_source import TimedSource

ROUNDING: Final = 0.25
"""Seconds by which decoded audio may be longer or shorter than requested or announced: resamplers and codecs pad."""

_CANCELLED: Final = 0.1
"""Share of the louder channel's power below which the mix of both has lost what was said. Unlike sounds keep a quarter
of it at least."""
_MOMENT: Final = SAMPLE_RATE // 4
"""Samples whose powers are compared, at a time."""
_STEP: Final = SAMPLE_RATE // 400
_NEARBY: Final = np.hanning(43)[1:-1] / np.hanning(43).sum()
"""Weights of the steps (0.1 s) whose mean is a moment's constant. They fall off gently: of a plain mean over 0.1 s a
hundredth and more of a deep voice is left, which would be taken away as a constant."""


@dataclass(frozen=True)
class Window:
    """A stretch of one sound track. `frame`: where it starts in the recording; `last`: the recording ends with it."""

    frame: int
    audio: Samples
    last: bool

    @property
    def start(self) -> float:
        return self.frame * SECONDS_PER_FRAME

    @property
    def end(self) -> float:
        return self.start + len(self.audio) / SAMPLE_RATE


class Recording:
    """The sound of stored content, decoded in confined children, at most `max_seconds` long.

    It may have several tracks: languages, or a microphone beside what a computer plays. Unless one was asked for, all
    that can be decoded are `candidates` until one of them speaks.
    """

    def __init__(
        self,
        decoder: DecodingPool,
        source: TimedSource,
        wanted: TranscriptionRequest,
        *,
        max_seconds: float,
    ) -> None:
        self._decoder = decoder
        self._source = source
        self._wanted = wanted
        self._max_seconds = max_seconds
        self._tracks: tuple[SoundTrack, ...] = ()
        self._begins_again = False
        self.candidates: tuple[int, ...] = (1,)
        """Numbers of tracks, from 1."""
        self.channels: tuple[int | None, ...] = (wanted.channel,)
        """Those that are heard one after the other, from 1. None: all of them, mixed."""
        self.channel = wanted.channel
        """The one that is heard now."""

    async def open(self) -> float | None:
        """Looks at the tracks. Returns the duration in seconds by the container's header, None if it does not say.

        Raises Refused, before any window is decoded.
        """
        facts: MediaFacts = await self._run("probe")
        if not facts.has_audio:
            raise Refused("not_audio_or_video", "This file holds no sound that could be transcribed.")
        if facts.duration is not None:
            self._check(facts.duration)
        self._tracks = facts.tracks
        self._begins_again = facts.begins_again
        if self._wanted.track is not None and self._wanted.track > len(self._tracks):
            raise Refused(
                "no_such_track",
                f"There is no sound track {self._wanted.track} in this file; it has {len(self._tracks)}.",
            )
        self.candidates = (self._wanted.track,) if self._wanted.track else self._heard_here()
        channels = self._tracks[self.candidates[0] - 1].channels
        if self._wanted.channel is not None and channels is not None and self._wanted.channel > channels:
            raise Refused(
                "no_such_channel",
                f"There is no channel {self._wanted.channel} in this file's sound; it has {channels}.",
            )
        if self._wanted.channels == "split":
            self._split(channels or 1)
        return facts.duration

    def _split(self, channels: int) -> None:
        if channels > MOST_SPLIT:
            raise Refused(
                "too_many_channels",
                f"This file's sound has {channels} channels; up to {MOST_SPLIT} are heard by themselves. Choose one "
                "with `channel`.",
            )
        self.keep_to(self.candidates[0])
        self.channels = tuple(range(1, channels + 1))

    def _heard_here(self) -> tuple[int, ...]:
        """The tracks that can be decoded; if none can, the first, so that decoding it says why."""
        return tuple(number for number, track in enumerate(self._tracks, 1) if track.decodes) or (1,)

    def keep_to(self, track: int) -> None:
        self.candidates = (track,)

    def heard(self) -> dict[str, Any]:
        """What a result says of the tracks (formats.result)."""
        return {
            "tracks": [{"number": number, **asdict(track)} for number, track in enumerate(self._tracks, 1)],
            "track": self.candidates[0],
            "channel": self._wanted.channel,
            **({"channels": len(self.channels)} if self._wanted.channels == "split" else {}),
        }

    async def window(self, frame: int, seconds: float, track: int) -> Window:
        """So many seconds from a frame on. Raises Refused, `duration_exceeds_limit` also if the header was wrong."""
        count = self._tracks[track - 1].channels
        arguments: dict[str, Any] = {"start": frame * SECONDS_PER_FRAME, "seconds": seconds, "track": track}
        if self.channel is not None:
            arguments["channel"] = self.channel
        elif count is not None and count > 1:
            arguments["layout"] = "stereo"
        if self._begins_again:
            arguments["begins_again"] = True
        pcm = await self._run("audio_window", **arguments)
        samples = np.frombuffer(pcm, "<i2").astype(np.float32)
        samples /= 32768
        channels = [samples[::2], samples[1::2]] if "layout" in arguments else [samples]
        for channel in channels:
            _centre(channel)
        audio = mixed(*channels) if len(channels) > 1 else samples
        window = Window(frame, audio, last=len(audio) < (seconds - ROUNDING) * SAMPLE_RATE)
        self._check(window.end)
        return window

    def _check(self, seconds: float) -> None:
        if seconds > self._max_seconds + ROUNDING:
            raise Refused(
                "duration_exceeds_limit",
                f"This recording is longer than the {self._max_seconds / 60:g} minutes that are transcribed at once.",
                limit=self._max_seconds,
            )

    async def _run(self, task: str, **arguments: Any) -> Any:
        try:
            with self._source.decoded():
                return await self._decoder.run(task, self._source, **arguments)
        except ObjectMissing as error:
            raise await self._source.missed() from error
        except DecodingFailed as error:
            if error.code in FAILURES_OF_THE_MACHINE:
                raise Unfinished("decoder", error.detail) from error
            if error.code == "unsupported":
                raise Refused("not_audio_or_video", f"This file can't be decoded as sound: {error.detail}") from error
            raise Refused(error.code, f"The sound of this file can't be decoded: {error.detail}") from error


def mixed(left: Samples, right: Samples) -> Samples:
    """Both channels as one, or the louder alone where they cancel each other: a cable or a microphone has the wrong
    polarity, perhaps that of one speaker alone.
    """
    both: Samples = (left + right) / np.float32(2)
    if not len(both):
        return both
    louder = max(left, right, key=_power)
    starts = np.arange(0, len(both), _MOMENT)
    lost = _powers(both, starts) < _CANCELLED * _powers(louder, starts)
    for start in range(0, len(both), SAMPLE_RATE) if lost.any() else ():
        part = slice(start, start + SAMPLE_RATE)
        share = np.interp(np.arange(start, start + len(both[part])), starts + _MOMENT / 2, lost)
        both[part] += share * (louder[part] - both[part])
    return both


def _centre(samples: Samples) -> None:
    """Takes away a constant, which a cheap sound card adds: the voice detector hears no quiet voice beside it.

    Each moment has its own: of two recordings that were joined, one may have a constant and the other none.
    """
    if not len(samples):
        return
    starts = np.arange(0, len(samples), _STEP)
    means = np.add.reduceat(samples, starts) / np.diff(starts, append=len(samples))
    constants = np.convolve(np.pad(means, len(_NEARBY) // 2, mode="edge"), _NEARBY, "valid")
    middles = starts + _STEP / 2
    for start in range(0, len(samples), SAMPLE_RATE):
        part = samples[start : start + SAMPLE_RATE]
        part -= np.interp(np.arange(start, start + len(part)), middles, constants)


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples)))


def _powers(samples: Samples, starts: NDArray[np.int64]) -> Samples:
    """The sums of the squares between these starts."""
    return np.add.reduceat(np.square(samples), starts)
