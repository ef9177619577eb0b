"""The way through a recording: stretch by stretch, each of as many chunks as the model hears together."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, Final

from media_core.transcripts.requests import TranscriptionRequest
from media_workers.speech.chunks import (
    SECONDS_PER_FRAME,
    Chunk,
    Cut,
    Flags,
    Probabilities,
    clear,
    cut,
    frames,
    parts,
    snapped,
    traced,
    voiced,
)
from media_workers.speech.hearing import SURE
from media_workers.speech.recording import ROUNDING, Recording, Window
from media_workers.speech.sentences import Word
from media_workers.speech.whisper import Model

_ROOM: Final = 1.25
"""So much more than the chunks' seconds is decoded first; it is enough where people speak without long pauses."""
_LEAD_IN: Final = frames(1.0)
"""Frames before a place that the voice detector hears too, since it needs a moment to know."""
_ONE_LANGUAGE: Final = 10.0
"""Longest chunk in seconds where the language may change. A chunk has one language; people mostly pause between two."""
_CLEAR: Final = round(math.exp(SURE), 2)
"""Mean probability of a stretch's words above which the model is expected to be sure of what it hears next."""


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

    def on_next_channel(self, channels: int, ended: float, language: str | None) -> "Place | None":
        """The beginning of the next of so many channels, once this one has `ended` (seconds); None after the last.

        `language`: the one that was asked for. Where none was, each channel has its own.
        """
        if self.channel is None or self.channel >= channels:
            return None
        return Place(0, language, self.track, channel=self.channel + 1, before=self.before + ended)

    def stored(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "Place":
        return cls(**stored | {"unfinished": tuple(Word(**word) for word in stored["unfinished"])})


@dataclass(frozen=True)
class _Stretch:
    """A stretch that is being heard. It begins at `frame` of the track, in a recording of the `language` so far."""

    frame: int
    track: int
    language: str | None
    following: int
    """The frame where the next one begins."""
    ended: float | None
    """The track's length in seconds, if it ends with this stretch."""
    said: asyncio.Task[tuple[list[Word], str | None]]


@dataclass
class Listening:
    """Hears a recording stretch by stretch: as many chunks as the model hears together, or silence.

    While a stretch is heard, the next one is begun, so that the model has always work to do. Close it in the end.
    """

    model: Model
    recording: Recording
    wanted: TranscriptionRequest
    charge: Callable[[float], Awaitable[None]]
    chunk_seconds: float
    window_seconds: float
    _longest: float = field(default=0.0, init=False)
    """Where the longest track ends that was heard to its end, in seconds."""
    _begun: list[_Stretch] = field(default_factory=list, init=False)
    """The stretch that is heard, and the one that was begun ahead."""
    _is_clear: bool = field(default=False, init=False)
    """Whether the last words were clear. Of noise the quick text would be made in vain."""

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
            now = await self._at(place.frame, track, place.language)
            if now.ended is None and place.language is not None and len(self.recording.candidates) == 1:
                with contextlib.suppress(Exception):  # met again in its turn, when what was said before it is stored
                    await self._begin(now.following, track, place.language)
            said, language = await now.said
            if said:
                self.recording.keep_to(track)
                self._is_clear = fmean(word.probability for word in said) > _CLEAR
                return replace(place, frame=now.following, language=language, track=track), said, now.ended
            if now.ended is None:
                following.append(now.following)
            else:
                self._longest = max(self._longest, now.ended)
        if following:
            return replace(place, frame=min(following)), [], None
        return place, [], self._longest

    async def aclose(self) -> None:
        for begun in self._begun:
            begun.said.cancel()
        await asyncio.gather(*(begun.said for begun in self._begun), return_exceptions=True)
        self._begun = []

    async def _at(self, frame: int, track: int, language: str | None) -> _Stretch:
        """The stretch that begins there. It is the one begun ahead, unless its language has turned out another one."""
        for ahead in self._begun[1:]:
            if (ahead.frame, ahead.track, ahead.language) == (frame, track, language):
                self._begun = [ahead]
                return ahead
        await self.aclose()
        return await self._begin(frame, track, language)

    async def _begin(self, frame: int, track: int, language: str | None) -> _Stretch:
        window, probabilities, found = await self._cut(frame, track)
        following = window.frame + found.following
        ended = window.end if window.last and found.following >= len(probabilities) else None
        said = asyncio.create_task(self._said(window, probabilities, found.chunks, language, self._is_clear))
        self._begun.append(begun := _Stretch(frame, track, language, following, ended, said))
        return begun

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
            await self.charge(window.end - ROUNDING)
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
        self,
        window: Window,
        probabilities: Probabilities,
        chunks: Sequence[Chunk],
        language: str | None,
        quickly: bool,
    ) -> tuple[list[Word], str | None]:
        if not chunks:
            return [], language
        sure = clear(probabilities)
        heard = await self._heard(window, sure, chunks, language, quickly)
        voice = voiced(probabilities) if self.wanted.vad else traced(probabilities)
        said: list[Word] = []
        for chunk, (words, _) in zip(chunks, heard, strict=True):
            for word in await self._whole(window, sure, chunk, words, heard[-1][1]):
                start, end = snapped(voice, word.start, word.end)
                start, end = window.start + start, window.start + max(start, end)
                said.append(replace(word, start=start, end=end))
        return said, heard[-1][1]

    async def _heard(
        self, window: Window, sure: Flags, chunks: Sequence[Chunk], language: str | None, quickly: bool = False
    ) -> list[tuple[list[Word], str]]:
        """The words of each chunk, with times in seconds of the window, and its language."""
        heard = await self.model.hear(window.audio, chunks, language, self.wanted, sure, quickly)
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
