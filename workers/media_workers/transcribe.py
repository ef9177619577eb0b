"""Transcription jobs: a stored recording becomes segments, window by window.

Memory is that of one window, whatever the recording's length. Each segment is stored as soon as it is heard. The lease
fences each write, so a worker that lost it adds nothing. The next worker continues where the last stored segment ends.
A segment that touches a window's end was probably cut in two: it is dropped, and the next window starts where it
started.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from media_core import passages, queue, quota, transcripts
from media_core.decoding import DecodingFailed, DecodingPool, MediaFacts, SoundTrack
from media_core.errors import Refused, Unfinished, not_found
from media_core.jobs import TranscriptionRequest
from media_core.queue import Lease
from media_core.settings import TranscriptionSettings
from media_core.speech_models import cannot_translate
from media_core.store.base import ObjectMissing
from media_core.transcripts import published
from media_workers.drain import Work
from media_workers.settings import Settings
from media_workers.stored import Stored
from media_workers.whisper import SAMPLE_RATE, Heard, Model, Samples, Whisper

WINDOW_SECONDS = 300.0
"""A multiple of the model's 30 s. Five minutes take about 0.2 GB of memory while their spectrogram is made."""

_TOUCHES = 1.0
"""A segment that ends less than so many seconds before the window's end counts as cut: the model's times are that
inexact."""
_LEAD_IN = 0.5
"""Seconds that are heard again before a dropped segment, for the same reason."""
_OVERLAP = 5.0
"""Seconds that are heard twice if a window ends in silence: half a word there may not have been recognized."""
_CANCELLED = 0.1
"""Share of the louder channel's power below which the mix of both has lost what was said. Unlike sounds keep a quarter
of it at least."""
_ROUNDING = 0.25
"""Seconds by which decoded audio may be longer or shorter than requested or announced: resamplers and codecs pad."""


def transcriber(settings: Settings) -> "Transcriber":
    whisper = Whisper(settings.whisper)
    return Transcriber(whisper, settings.transcription, lease_seconds=settings.drain.lease_seconds)


class Transcriber:
    """The handler of `transcribe` jobs. The model is loaded for the first of them and kept.

    Each segment renews the lease for `lease_seconds`; between segments the drain loop renews it periodically.
    """

    def __init__(
        self,
        whisper: Whisper,
        limits: TranscriptionSettings,
        *,
        lease_seconds: float,
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        self._whisper = whisper
        self._max_seconds = limits.max_seconds
        self._lease_seconds = lease_seconds
        self._window_seconds = window_seconds

    async def __call__(self, lease: Lease, work: Work) -> None:
        """Completes the job with `transcript, segments, language, duration`, the recording's `tracks`, and the `track`
        and `channel` that were heard. The language is None if nobody speaks.

        Raises NotYet while the verdict is due, Cancelled, LeaseLost, Unavailable, Unfinished, and Refused: `not_found`,
        `scan_failed`, `unscannable`, `not_audio_or_video`, `corrupt`, `too_large`, `memory`, `duration_exceeds_limit`,
        `transcription_limit_exceeded`, `unsupported_language`, `model_unavailable`, `translation_unavailable`,
        `no_such_track`, `no_such_channel`.
        """
        wanted = TranscriptionRequest.of(lease.payload)
        content = await work.library.content_for_work(lease.payload["media_id"])
        source = Stored(work, content)
        recording = Recording(
            work.decoder, source, wanted, max_seconds=self._max_seconds, window_seconds=self._window_seconds
        )
        announced = await recording.open()
        await _charge(lease, work, announced or 0.0)
        model = await self._whisper.model()
        if wanted.task == "translate" and not model.translates:
            raise Refused("translation_unavailable", cannot_translate(self._whisper.name))
        if wanted.language is not None and wanted.language not in model.languages:
            raise Refused(
                "unsupported_language",
                f"The model knows no language {wanted.language!r}; it knows {', '.join(sorted(model.languages))}.",
            )
        transcript = Transcript(lease, work, self._lease_seconds, wanted.language, announced)
        await transcript.resume()
        if transcript.segments and (transcript.language is None or len(recording.candidates) > 1):
            # At the place of the first segment, so that the job keeps language and track after a change of workers.
            first = await self._first_with_voice(model, recording, transcript.segments[0]["start"])
            transcript.language = transcript.language or await model.language_of(first.audio)

        position = transcript.said_until
        while True:
            window, cut = await _listen(model, recording, position, wanted, transcript, partial(_charge, lease, work))
            if window.last:
                break
            position = window.next_start(transcript.said_until, cut)
            await transcript.renew(position)
        async with work.database.transaction() as tx:
            await quota.settle_transcription(tx, lease.job_id, max(math.ceil(window.end - _ROUNDING), 0))
        result = transcript.result(window.end, recording.heard())
        async with work.database.transaction() as tx:
            await queue.finish(tx, lease, result)
            await passages.keep(tx, lease.job_id, lease.payload["media_id"], lease.payload, result)

    async def _first_with_voice(self, model: Model, recording: "Recording", start: float) -> "Window":
        """The window at `start` of the first track that speaks there, which is kept to from then on."""
        for track in recording.candidates:
            window = await recording.window(start, track)
            if len(recording.candidates) == 1 or await model.has_voice(window.audio):
                break
        recording.keep_to(window.track)
        return window


class Transcript:
    """A job's segments so far, stored one by one. Raises LeaseLost; Cancelled if the client has cancelled the job."""

    def __init__(
        self, lease: Lease, work: Work, lease_seconds: float, language: str | None, announced: float | None
    ) -> None:
        self.segments: list[dict[str, Any]] = []
        self.language = language
        self._lease = lease
        self._queue = work.queue
        self._lease_seconds = lease_seconds
        self._announced = announced

    @property
    def said_until(self) -> float:
        """The end of the last segment, in seconds."""
        return float(self.segments[-1]["end"]) if self.segments else 0.0

    async def resume(self) -> None:
        """Loads the segments that earlier workers have stored."""
        self.segments = [published(stored) for stored in await self._queue.segments(self._lease.job_id)]

    async def add(self, placed: dict[str, Any]) -> None:
        stored = {"number": len(self.segments), **placed}
        await self._queue.append_segments(self._lease, [stored])
        self.segments.append(published(stored))
        await self.renew(self.said_until)

    async def renew(self, reached: float) -> None:
        """Renews the lease, and reports the progress if the recording's length is known."""
        progress = min(reached / self._announced, 1.0) if self._announced else None
        await self._queue.renew(self._lease, seconds=self._lease_seconds, progress=progress)

    def result(self, heard_until: float, heard: dict[str, Any]) -> dict[str, Any]:
        # The header's duration, which the item's info shows too, unless it is wrong by a second or more.
        announced = heard_until if self._announced is None else self._announced
        duration = announced if abs(announced - heard_until) < 1 else heard_until
        return transcripts.result(self.segments, self.language if self.segments else None, duration, heard)


@dataclass(frozen=True)
class Window:
    """A stretch of a recording. `start`: seconds from the recording's beginning; `last`: the recording ends with it.

    `track`: the number of the sound track it is of.
    """

    start: float
    audio: Samples
    last: bool
    track: int = 1

    @property
    def seconds(self) -> float:
        return len(self.audio) / SAMPLE_RATE

    @property
    def end(self) -> float:
        return self.start + self.seconds

    def cuts(self, heard: Heard) -> bool:
        """Whether the window's end probably cut this segment in two.

        A segment that fills (nearly) the whole window is taken as it is: the next window would cut it again.
        """
        return not self.last and heard.end > self.seconds - _TOUCHES and heard.start > self.seconds / 10

    def next_start(self, said_until: float, cut: Heard | None) -> float:
        """Start of the next window: later than this window's, and not before the end of the last kept segment."""
        return max(said_until, self.end - _OVERLAP if cut is None else self.start + cut.start - _LEAD_IN)

    def placed(self, heard: Heard, after: float) -> dict[str, Any]:
        """The segment in seconds of the recording: within the window, not before `after` (the previous end)."""
        start = max(self.start + heard.start, after)
        end = max(min(self.start + heard.end, self.end), start)
        words = heard.words and [
            word | {"start": round(self.start + word["start"], 3), "end": round(self.start + word["end"], 3)}
            for word in heard.words
        ]
        return {"start": round(start, 3), "end": round(end, 3), "text": heard.text, "words": words}


class Recording:
    """The sound of stored content, decoded in confined children, at most `max_seconds` long.

    It may have several tracks: languages, or a microphone beside what a computer plays. Unless one was asked for, all
    that can be decoded are `candidates` until one of them speaks.
    """

    def __init__(
        self,
        decoder: DecodingPool,
        source: Stored,
        wanted: TranscriptionRequest,
        *,
        max_seconds: float,
        window_seconds: float,
    ) -> None:
        self._decoder = decoder
        self._source = source
        self._wanted = wanted
        self._max_seconds = max_seconds
        self._window_seconds = window_seconds
        self._tracks: tuple[SoundTrack, ...] = ()
        self.candidates: tuple[int, ...] = (1,)
        """Numbers of tracks, from 1."""

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
        return facts.duration

    def _heard_here(self) -> tuple[int, ...]:
        """The tracks that can be decoded; if none can, the first, so that decoding it says why."""
        return tuple(number for number, track in enumerate(self._tracks, 1) if track.decodes) or (1,)

    def keep_to(self, track: int) -> None:
        self.candidates = (track,)

    def heard(self) -> dict[str, Any]:
        """What a result says of the tracks (transcripts.result)."""
        return {
            "tracks": [{"number": number, **asdict(track)} for number, track in enumerate(self._tracks, 1)],
            "track": self.candidates[0],
            "channel": self._wanted.channel,
        }

    async def window(self, start: float, track: int) -> Window:
        """The window at `start` (seconds). Raises Refused, `duration_exceeds_limit` also if the header was wrong."""
        channels = self._tracks[track - 1].channels
        arguments: dict[str, Any] = {"start": start, "seconds": self._window_seconds, "track": track}
        if self._wanted.channel is not None:
            arguments["channel"] = self._wanted.channel
        elif channels is not None and channels > 1:
            arguments["layout"] = "stereo"
        pcm = await self._run("audio_window", **arguments)
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
        audio = mixed(samples[::2], samples[1::2]) if "layout" in arguments else samples
        last = len(audio) < (self._window_seconds - _ROUNDING) * SAMPLE_RATE
        window = Window(start, audio, last, track)
        self._check(window.end)
        return window

    def _check(self, seconds: float) -> None:
        if seconds > self._max_seconds + _ROUNDING:
            raise Refused(
                "duration_exceeds_limit",
                f"This recording is longer than the {self._max_seconds / 60:g} minutes that are transcribed at once.",
                limit=self._max_seconds,
            )

    async def _run(self, task: str, **arguments: Any) -> Any:
        try:
            with self._source.decoded():
                return await self._decoder.run(task, self._source, **arguments)
        except ObjectMissing as error:  # found infected or deleted meanwhile
            raise not_found() from error
        except DecodingFailed as error:
            if error.code in ("timeout", "crashed"):
                raise Unfinished("decoder", error.detail) from error
            if error.code == "unsupported":
                raise Refused("not_audio_or_video", f"This file can't be decoded as sound: {error.detail}") from error
            raise Refused(error.code, f"The sound of this file can't be decoded: {error.detail}") from error


def mixed(left: Samples, right: Samples) -> Samples:
    """Both channels as one, or the louder alone where they cancel each other: a cable or a microphone of the wrong
    polarity.
    """
    both: Samples = (left + right) / np.float32(2)
    if not len(both):
        return both
    louder: Samples = max(left, right, key=_power)
    return np.ascontiguousarray(louder) if _power(both) < _CANCELLED * _power(louder) else both


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples)))


async def _listen(
    model: Model,
    recording: Recording,
    start: float,
    wanted: TranscriptionRequest,
    transcript: Transcript,
    charge: Callable[[float], Awaitable[None]],
) -> tuple[Window, Heard | None]:
    """Adds the segments of the window at `start` to the transcript.

    Of several tracks the first that speaks is kept to. Returns the window, the longest if no track spoke, and the
    segment that its end cut in two, if there is one.
    """
    longest: Window | None = None
    for track in recording.candidates:
        window = await recording.window(start, track)
        await charge(window.end - _ROUNDING)
        cut = await _listen_to(model, window, wanted, transcript)
        if cut is not None or transcript.segments:
            recording.keep_to(track)
            return window, cut
        if longest is None or window.end > longest.end:
            longest = window
    assert longest is not None  # noqa: S101 (there is a candidate always)
    return longest, None


async def _listen_to(
    model: Model, window: Window, wanted: TranscriptionRequest, transcript: Transcript
) -> Heard | None:
    if not await model.has_voice(window.audio):
        return None
    language = transcript.language or await model.language_of(window.audio)
    async with aclosing(model.listen(window.audio, language, wanted)) as listening:
        async for heard in listening:
            if window.cuts(heard):
                return heard
            await transcript.add(window.placed(heard, after=transcript.said_until))
            transcript.language = language
    return None


async def _charge(lease: Lease, work: Work, seconds: float) -> None:
    """Counts the `seconds` known so far against the day's limit, each second once per job."""
    limit = (await work.policy.current()).max_transcription_seconds_per_day
    async with work.database.transaction() as tx:
        await quota.charge_transcription(tx, lease.job_id, math.ceil(seconds), limit)
