"""Transcription jobs: a stored recording becomes segments, a few chunks of up to 30 seconds at a time.

Memory is that of one window, whatever the recording's length. The segments of each stretch are stored in one
transaction with the place where the next one begins, fenced by the lease. So a worker that lost its lease adds nothing,
and the next worker does exactly what this one would have done: a stretch follows from the recording and from the place
where it begins.
"""

import contextlib
import math
from collections import Counter
from dataclasses import replace
from typing import Any, Final

from media_core.contents import quota
from media_core.errors import Refused
from media_core.jobs import queue
from media_core.jobs.queue import Lease
from media_core.settings import TranscriptionSettings
from media_core.transcripts import formats, passages
from media_core.transcripts.formats import published
from media_core.transcripts.requests import TranscriptionRequest
from media_core.transcripts.speech_models import cannot_translate
from media_workers.drain import Work
from media_workers.settings import Settings
from media_workers.speech.chunks import SECONDS_PER_FRAME
from media_workers.speech.recording import ROUNDING, Recording
from media_workers.speech.sentences import Word, divided
from media_workers.speech.stretches import Listening, Place
from media_workers.speech.whisper import Model, Whisper
from media_workers.timed_source import TimedSource

WINDOW_SECONDS: Final = 240.0
"""Most that is decoded at once. Its samples take 75 MB for a moment if they are stereo."""


def transcriber(settings: Settings) -> "Transcriber":
    whisper = Whisper(settings.whisper)
    return Transcriber(whisper, settings.transcription, lease_seconds=settings.drain.lease_seconds)


class Transcriber:
    """The handler of `transcribe` jobs. The model is loaded for the first of them and kept.

    Each stretch renews the lease for `lease_seconds`; meanwhile the drain loop renews it periodically.
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
        and `channel` that were heard. The language is None if nobody speaks and none was asked for.

        Raises NotYet while the verdict is due, Cancelled, LeaseLost, Unavailable, Unfinished, and Refused: `not_found`,
        `scan_failed`, `unscannable`, `not_audio_or_video`, `corrupt`, `too_large`, `memory`, `duration_exceeds_limit`,
        `transcription_limit_exceeded`, `unsupported_language`, `model_unavailable`, `translation_unavailable`,
        `no_such_track`, `no_such_channel`, `too_many_channels`.
        """
        wanted = TranscriptionRequest.of(lease.payload)
        content = await work.library.content_for_work(lease.payload["media_id"])
        source = TimedSource(work, content)
        recording = Recording(work.decoder, source, wanted, max_seconds=self._max_seconds)
        announced = await recording.open()
        await _charge(lease, work, (announced or 0.0) * len(recording.channels))
        model = await self._model_for(wanted)
        transcript = Transcript(lease, work, self._lease_seconds, wanted, announced, channels=len(recording.channels))
        await transcript.resume()
        if transcript.place.track is not None:
            recording.keep_to(transcript.place.track)

        async def charge(seconds: float) -> None:
            await _charge(lease, work, transcript.place.before + seconds)

        listening = Listening(
            model,
            recording,
            wanted,
            charge,
            chunk_seconds=self._whisper.chunk_seconds,
            window_seconds=self._window_seconds,
        )
        async with contextlib.aclosing(listening):
            ends_at = await _hear_all(listening, transcript, recording, wanted)
        decoded = transcript.place.before + ends_at
        async with work.database.transaction() as tx:
            await quota.settle_transcription(tx, lease.job_id, max(math.ceil(decoded - ROUNDING), 0))
        result = transcript.result(ends_at, recording.heard())
        async with work.database.transaction() as tx:
            await queue.finish(tx, lease, result)
            await passages.try_to_keep(tx, lease.job_id, lease.payload["media_id"], lease.payload, result)

    async def _model_for(self, wanted: TranscriptionRequest) -> Model:
        """Raises Refused where the model cannot do what is wanted."""
        model = await self._whisper.model()
        if wanted.task == "translate" and not model.translates:
            raise Refused("translation_unavailable", cannot_translate(self._whisper.name))
        if wanted.language is not None and wanted.language not in model.languages:
            raise Refused(
                "unsupported_language",
                f"The model knows no language {wanted.language!r}; it knows {', '.join(sorted(model.languages))}.",
            )
        return model


async def _hear_all(
    listening: Listening, transcript: "Transcript", recording: Recording, wanted: TranscriptionRequest
) -> float:
    """Adds the stretches of all channels to the transcript. Returns where the last one ends, in seconds."""
    while True:
        recording.channel = transcript.place.channel or wanted.channel
        place, said, ends_at = await listening.stretch(transcript.place)
        following = None
        if ends_at is not None:
            following = place.on_next_channel(len(recording.channels), ends_at, wanted.language)
        await transcript.add(place, said, ended=ends_at is not None, following=following)
        if ends_at is not None and following is None:
            return ends_at


class Transcript:
    """A job's segments so far. Raises LeaseLost; Cancelled if the client has cancelled the job."""

    def __init__(
        self,
        lease: Lease,
        work: Work,
        lease_seconds: float,
        wanted: TranscriptionRequest,
        announced: float | None,
        *,
        channels: int,
    ) -> None:
        self.segments: list[dict[str, Any]] = []
        self.place = Place(language=wanted.language, channel=1 if wanted.channels == "split" else None)
        self._seconds = None if announced is None else announced * channels
        """Of all channels that are heard."""
        self._with_words, self._asked_for = wanted.word_timestamps, wanted.language
        self._lease = lease
        self._queue = work.queue
        self._lease_seconds = lease_seconds
        self._announced = announced

    async def resume(self) -> None:
        """Loads what earlier workers have stored."""
        self.segments = [published(stored) for stored in await self._queue.segments(self._lease.job_id)]
        place = await self._queue.place(self._lease.job_id)
        if place is not None:
            self.place = Place.of(place)
        elif self.segments:  # stored by a version that kept no place
            self.place = replace(self.place, frame=math.ceil(self.segments[-1]["end"] / SECONDS_PER_FRAME))

    async def add(self, place: Place, said: list[Word], *, ended: bool, following: Place | None = None) -> None:
        """Stores the sentences that are complete now, and the place of the next stretch. `following`: the beginning of
        the next channel.
        """
        words = [*self.place.unfinished, *said]
        sentences, unfinished = divided(words, until=None if ended else place.seconds)
        channel = place.channel
        place = replace(following or place, unfinished=tuple(unfinished))
        earlier = [segment["end"] for segment in self.segments[-1:] if segment.get("channel") == channel]
        stored: list[dict[str, Any]] = []
        for sentence in sentences:
            after = stored[-1]["end"] if stored else earlier[0] if earlier else 0.0
            number = len(self.segments) + len(stored)
            stored.append({**self._stored(number, sentence, after), "channel": channel})
        await self._queue.append_segments(self._lease, stored, place=place.stored())
        self.segments += map(published, stored)
        self.place = place
        progress = min((place.before + place.seconds) / self._seconds, 1.0) if self._seconds else None
        await self._queue.renew(self._lease, seconds=self._lease_seconds, progress=progress)

    def _stored(self, number: int, sentence: list[Word], after: float) -> dict[str, Any]:
        """A segment; it begins no earlier than `after`, where the one before it ends."""
        start = max(sentence[0].start, after)
        return {
            "number": number,
            "start": round(start, 3),
            "end": round(max(sentence[-1].end, start), 3),
            "text": "".join(word.text for word in sentence).strip(),
            "words": [_shown(word) for word in sentence] if self._with_words else None,
            "language": sentence[0].language,
        }

    def result(self, heard_until: float, heard: dict[str, Any]) -> dict[str, Any]:
        # The header's duration, which the item's info shows too, unless it is wrong by a second or more.
        announced = heard_until if self._announced is None else self._announced
        duration = announced if abs(announced - heard_until) < 1 else heard_until
        segments = self.segments if self.place.channel is None else formats.by_time(self.segments)
        return formats.result(segments, self._language(), duration, heard)

    def _language(self) -> str | None:
        """The recording's language. If each segment has its own, the longest spoken one counts. If nobody speaks, the
        requested one does."""
        spoken: Counter[str | None] = Counter()
        for segment in self.segments:
            spoken[segment.get("language") or self.place.language] += segment["end"] - segment["start"]
        return spoken.most_common(1)[0][0] if spoken else self._asked_for


def _shown(word: Word) -> dict[str, Any]:
    return {
        "word": word.text.strip(),
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "probability": round(word.probability, 3),
    }


async def _charge(lease: Lease, work: Work, seconds: float) -> None:
    """Counts the `seconds` known so far against the day's limit, each second once per job."""
    limit = (await work.policy.current()).max_transcription_seconds_per_day
    async with work.database.transaction() as tx:
        await quota.charge_transcription(tx, lease.job_id, math.ceil(seconds), limit)
