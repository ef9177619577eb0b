"""Transcription jobs: a stored recording becomes segments, window by window.

Memory is that of one window, whatever the recording's length. Each segment is stored as soon as it is heard. The lease
fences each write, so a worker that lost it adds nothing. The next worker continues where the last stored segment ends.
A segment that touches a window's end was probably cut in two: it is dropped, and the next window starts where it
started.
"""

import math
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from media_core import quota, transcripts
from media_core.decoding import DecodingFailed, DecodingPool, MediaFacts
from media_core.errors import Refused, Unfinished, not_found
from media_core.jobs import TranscriptionRequest
from media_core.queue import Lease
from media_core.settings import TranscriptionSettings
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
        """Completes the job with `transcript, segments, language, duration`; language is None if nobody speaks.

        Raises NotYet while the verdict is due, Cancelled, LeaseLost, Unavailable, Unfinished, and Refused: `not_found`,
        `scan_failed`, `unscannable`, `not_audio_or_video`, `corrupt`, `too_large`, `memory`, `duration_exceeds_limit`,
        `transcription_limit_exceeded`, `unsupported_language`, `model_unavailable`.
        """
        wanted = TranscriptionRequest.of(lease.payload)
        content = await work.library.content_for_work(lease.payload["media_id"])
        source = Stored(work, content)
        recording = Recording(work.decoder, source, max_seconds=self._max_seconds, window_seconds=self._window_seconds)
        announced = await recording.duration()
        await _charge(lease, work, announced or 0.0)
        model = await self._whisper.model()
        if wanted.language is not None and wanted.language not in model.languages:
            raise Refused(
                "unsupported_language",
                f"The model knows no language {wanted.language!r}; it knows {', '.join(sorted(model.languages))}.",
            )
        transcript = Transcript(lease, work, self._lease_seconds, wanted.language, announced)
        await transcript.resume()
        if transcript.segments and transcript.language is None:
            # From the place of the first segment, so that the job keeps its language after a change of workers.
            first = await recording.window(transcript.segments[0]["start"])
            transcript.language = await model.language_of(first.audio)

        position = transcript.said_until
        while True:
            window = await recording.window(position)
            await _charge(lease, work, window.end - _ROUNDING)
            cut = await _listen(model, window, wanted, transcript)
            if window.last:
                break
            position = window.next_start(transcript.said_until, cut)
            await transcript.renew(position)
        await work.queue.finish(lease, transcript.result(window.end))


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

    def result(self, heard_until: float) -> dict[str, Any]:
        # The header's duration, which the item's info shows too, unless it is wrong by a second or more.
        announced = heard_until if self._announced is None else self._announced
        duration = announced if abs(announced - heard_until) < 1 else heard_until
        return transcripts.result(self.segments, self.language if self.segments else None, duration)


@dataclass(frozen=True)
class Window:
    """A stretch of a recording. `start`: seconds from the recording's beginning; `last`: the recording ends with it."""

    start: float
    audio: Samples
    last: bool

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
    """The sound of stored content, decoded in confined children, at most `max_seconds` long."""

    def __init__(self, decoder: DecodingPool, source: Stored, *, max_seconds: float, window_seconds: float) -> None:
        self._decoder = decoder
        self._source = source
        self._max_seconds = max_seconds
        self._window_seconds = window_seconds

    async def duration(self) -> float | None:
        """Seconds by the container's header; None if it does not say them. Raises Refused, before any decoding."""
        facts: MediaFacts = await self._run("probe")
        if not facts.has_audio:
            raise Refused("not_audio_or_video", "This file holds no sound that could be transcribed.")
        if facts.duration is not None:
            self._check(facts.duration)
        return facts.duration

    async def window(self, start: float) -> Window:
        """The window at `start` (seconds). Raises Refused, `duration_exceeds_limit` also if the header was wrong."""
        pcm = await self._run("audio_window", start=start, seconds=self._window_seconds)
        audio = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
        window = Window(start, audio, last=len(audio) < (self._window_seconds - _ROUNDING) * SAMPLE_RATE)
        self._check(window.end)
        return window

    def _check(self, seconds: float) -> None:
        if seconds > self._max_seconds + _ROUNDING:
            raise Refused(
                "duration_exceeds_limit",
                f"This recording is longer than the {self._max_seconds / 60:g} minutes that are transcribed at once.",
                limit=self._max_seconds,
            )

    async def _run(self, task: str, **arguments: float) -> Any:
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


async def _listen(model: Model, window: Window, wanted: TranscriptionRequest, transcript: Transcript) -> Heard | None:
    """Adds the window's segments to the transcript. Returns the segment that its end cut in two, if there is one."""
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
