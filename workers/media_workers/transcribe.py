"""Transcription jobs: a stored recording becomes segments, a few chunks of up to 30 seconds at a time.

Memory is that of one window, whatever the recording's length. The segments of each stretch are stored in one
transaction with the place where the next one begins, fenced by the lease. So a worker that lost its lease adds nothing,
and the next worker does exactly what this one would have done: a stretch follows from the recording and from the place
where it begins.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from media_core.contents import quota
from media_core.decoding import DecodingFailed, MediaFacts, SoundTrack
from media_core.decoding.pool import DecodingPool
from media_core.errors import Refused, Unfinished
from media_core.jobs import queue
from media_core.jobs.queue import Lease
from media_core.jobs.requests import MOST_SPLIT, TranscriptionRequest
from media_core.settings import TranscriptionSettings
from media_core.store.base import ObjectMissing
from media_core.transcripts import formats, passages
from media_core.transcripts.formats import published
from media_core.transcripts.speech_models import cannot_translate
from media_workers.chunks import (
    SAMPLE_RATE,
    SECONDS_PER_FRAME,
    Chunk,
    Cut,
    Flags,
    Probabilities,
    Samples,
    clear,
    cut,
    frames,
    parts,
    snapped,
    traced,
    voiced,
)
from media_workers.drain import Work
from media_workers.sentences import Word, divided
from media_workers.settings import Settings
from media_workers.timed_source import TimedSource
from media_workers.whisper import Model, Whisper

WINDOW_SECONDS: Final = 240.0
"""Most that is decoded at once. Its samples take 75 MB for a moment if they are stereo."""

_ROOM: Final = 1.25
"""So much more than the chunks' seconds is decoded first; it is enough where people speak without long pauses."""
_LEAD_IN: Final = frames(1.0)
"""Frames before a place that the voice detector hears too, since it needs a moment to know."""
_CANCELLED = 0.1
"""Share of the louder channel's power below which the mix of both has lost what was said. Unlike sounds keep a quarter
of it at least."""
_ONE_LANGUAGE: Final = 10.0
"""Longest chunk in seconds where the language may change: whoever changes it mostly pauses, and a chunk has one."""
_STEP: Final = SAMPLE_RATE // 400
_NEARBY: Final = np.hanning(43)[1:-1] / np.hanning(43).sum()
"""Weights of the steps (0.1 s) whose mean is a moment's constant. They fall off gently: of a plain mean over 0.1 s a
hundredth and more of a deep voice is left, which would be taken away as a constant."""
_ROUNDING = 0.25
"""Seconds by which decoded audio may be longer or shorter than requested or announced: resamplers and codecs pad."""


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
        model = await self._whisper.model()
        if wanted.task == "translate" and not model.translates:
            raise Refused("translation_unavailable", cannot_translate(self._whisper.name))
        if wanted.language is not None and wanted.language not in model.languages:
            raise Refused(
                "unsupported_language",
                f"The model knows no language {wanted.language!r}; it knows {', '.join(sorted(model.languages))}.",
            )
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
        ends_at: float | None = None
        while ends_at is None:
            recording.channel = transcript.place.channel or wanted.channel
            place, said, ends_at = await listening.stretch(transcript.place)
            following = None if ends_at is None else recording.following(place, ends_at)
            await transcript.add(place, said, ended=ends_at is not None, following=following)
            if following is not None:
                ends_at = None
        decoded = transcript.place.before + ends_at
        async with work.database.transaction() as tx:
            await quota.settle_transcription(tx, lease.job_id, max(math.ceil(decoded - _ROUNDING), 0))
        result = transcript.result(ends_at, recording.heard())
        async with work.database.transaction() as tx:
            await queue.finish(tx, lease, result)
            await passages.try_to_keep(tx, lease.job_id, lease.payload["media_id"], lease.payload, result)


@dataclass(frozen=True)
class Place:
    """How far a job is: all that the next stretch has to know. It is stored with the segments of the one before."""

    frame: int = 0
    """What is before this frame of the recording (`chunks.FRAME` samples each) is heard."""
    language: str | None = None
    track: int | None = None
    """The sound track that is kept to; None until one has spoken."""
    unfinished: tuple[Word, ...] = ()
    """The words at the end that may go on as the same sentence."""
    channel: int | None = None
    """Where channels are split, the one that is heard."""
    before: float = 0.0
    """Seconds of the channels that were heard before it."""

    @property
    def seconds(self) -> float:
        return self.frame * SECONDS_PER_FRAME

    def stored(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "Place":
        return cls(**stored | {"unfinished": tuple(Word(**word) for word in stored["unfinished"])})


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


@dataclass
class Listening:
    """Hears a recording stretch by stretch: as many chunks as the model hears together, or silence."""

    model: Model
    recording: "Recording"
    wanted: TranscriptionRequest
    charge: Callable[[float], Awaitable[None]]
    chunk_seconds: float
    window_seconds: float
    _longest: float = field(default=0.0, init=False)
    """Where the longest track ends that was heard to its end, in seconds."""

    @property
    def _languages(self) -> bool:
        """Whether segments may have several: where one of them changes it, or each speaker has one."""
        return self.wanted.multilingual or (self.wanted.channels == "split" and self.wanted.language is None)

    async def stretch(self, place: Place) -> tuple[Place, list[Word], float | None]:
        """The place after this stretch, what was said in it, and the recording's length in seconds once it has ended.

        Of several tracks the first that speaks is kept to.
        """
        following: list[int] = []
        for track in self.recording.candidates:
            window, probabilities, found = await self._cut(place.frame, track)
            said, language = await self._said(window, probabilities, found, place.language)
            frame = window.frame + found.following
            ended = window.last and found.following >= len(probabilities)
            if said:
                self.recording.keep_to(track)
                return replace(place, frame=frame, language=language, track=track), said, window.end if ended else None
            if ended:
                self._longest = max(self._longest, window.end)
            else:
                following.append(frame)
        if following:
            return replace(place, frame=min(following)), [], None
        return place, [], self._longest

    async def _cut(self, frame: int, track: int) -> tuple[Window, Probabilities, Cut]:
        """A window from just before `frame` on, the probability of a voice for each of its frames, and its chunks.

        Where people speak little it is longer, so that the chunks are full nevertheless.
        """
        lead = min(_LEAD_IN, frame)
        everything = not self.wanted.vad
        most = self.model.at_once
        longest = min(self.chunk_seconds, _ONE_LANGUAGE) if self.wanted.multilingual else self.chunk_seconds
        seconds = min(most * longest * _ROOM, self.window_seconds)
        while True:
            window = await self.recording.window(frame - lead, seconds, track)
            await self.charge(window.end - _ROUNDING)
            probabilities = await self.model.voice(window.audio)
            found = cut(
                traced(probabilities) if everything else voiced(probabilities),
                first=min(lead, len(probabilities)),
                last=window.last,
                most=most,
                longest=min(longest, 0.9 * seconds),
                everything=everything,
                apart=self.wanted.multilingual,
            )
            if found.full or seconds >= self.window_seconds:
                return window, probabilities, found
            seconds = self.window_seconds

    async def _said(
        self, window: Window, probabilities: Probabilities, found: Cut, language: str | None
    ) -> tuple[list[Word], str | None]:
        if not found.chunks:
            return [], language
        sure = clear(probabilities)
        heard = await self._heard(window, sure, found.chunks, language)
        voice = voiced(probabilities) if self.wanted.vad else traced(probabilities)
        said: list[Word] = []
        for chunk, (words, _) in zip(found.chunks, heard, strict=True):
            for word in await self._whole(window, sure, chunk, words, heard[-1][1]):
                start, end = snapped(voice, word.start, word.end)
                start, end = window.start + start, window.start + max(start, end)
                said.append(replace(word, start=start, end=end))
        return said, heard[-1][1]

    async def _heard(
        self, window: Window, sure: Flags, chunks: Sequence[Chunk], language: str | None
    ) -> list[tuple[list[Word], str]]:
        """The words of each chunk, with times in seconds of the window, and its language."""
        samples = [chunk.of(window.audio) for chunk in chunks]
        heard = await self.model.hear(samples, language, self.wanted, [chunk.holds(sure) for chunk in chunks])
        return [
            (
                [
                    replace(
                        word,
                        start=chunk.placed(word.start),
                        end=chunk.placed(word.end, ends=True),
                        language=spoken if self._languages else None,
                    )
                    for word in words
                ],
                spoken,
            )
            for chunk, (words, spoken) in zip(chunks, heard, strict=True)
        ]

    async def _whole(self, window: Window, sure: Flags, chunk: Chunk, words: list[Word], language: str) -> list[Word]:
        """The chunk's words, with those that the model has passed over: it hears the parts around them one by one.

        If it then writes no more, it stays with what it wrote: not every voice is words.
        """
        apart = parts(chunk, [(word.start, word.end) for word in words], sure) if words else []
        if not apart:
            return words
        again = await self._heard(window, sure, apart, language)
        if sum(len(more) for more, _ in again) <= len(words):
            return words
        return [
            word
            for part, (more, _) in zip(apart, again, strict=True)
            for word in await self._whole(window, sure, part, more, language)
        ]


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

    def following(self, place: Place, ends_at: float) -> Place | None:
        """The beginning of the channel after the place's, which has ended; None if there is none."""
        if place.channel is None or place.channel >= len(self.channels):
            return None
        return Place(0, self._wanted.language, place.track, channel=place.channel + 1, before=place.before + ends_at)

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
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
        channels = [samples[::2], samples[1::2]] if "layout" in arguments else [samples]
        for channel in channels:
            _centre(channel)
        audio = mixed(*channels) if len(channels) > 1 else samples
        window = Window(frame, audio, last=len(audio) < (seconds - _ROUNDING) * SAMPLE_RATE)
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
        except ObjectMissing as error:
            raise await self._source.missed() from error
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


def _centre(samples: Samples) -> None:
    """Takes away a constant, which a cheap sound card adds: the voice detector hears no quiet voice beside it.

    Each moment has its own: of two recordings that were joined, one may have a constant and the other none.
    """
    if not len(samples):
        return
    starts = np.arange(0, len(samples), _STEP)
    means = np.add.reduceat(samples, starts) / np.diff(starts, append=len(samples))
    constants = np.convolve(np.pad(means, len(_NEARBY) // 2, mode="edge"), _NEARBY, "valid")
    for start in range(0, len(samples), 4000 * _STEP):
        part = samples[start : start + 4000 * _STEP]
        part -= np.interp(np.arange(start, start + len(part)), starts + _STEP / 2, constants)


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples)))


async def _charge(lease: Lease, work: Work, seconds: float) -> None:
    """Counts the `seconds` known so far against the day's limit, each second once per job."""
    limit = (await work.policy.current()).max_transcription_seconds_per_day
    async with work.database.transaction() as tx:
        await quota.charge_transcription(tx, lease.job_id, math.ceil(seconds), limit)
