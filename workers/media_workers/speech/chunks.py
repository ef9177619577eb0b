"""Where a recording is cut for the speech model, which hears up to 30 seconds at once.

The cuts lie in pauses. They follow from the samples and from the place where listening begins, and from nothing else:
whoever begins at one of the cuts finds the same ones after it. Pure; it works on the voice detector's probabilities.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE: Final = 16_000
FRAME: Final = 512
"""Samples that share one probability of the voice detector (Silero): 32 ms."""
SECONDS_PER_FRAME: Final = FRAME / SAMPLE_RATE

Samples = NDArray[np.float32]
"""Mono, 16 kHz, -1..1."""
Probabilities = NDArray[np.float32]
"""That somebody speaks, one for each frame."""
Flags = NDArray[np.bool_]
"""One for each frame."""


def frames(seconds: float) -> int:
    return round(seconds / SECONDS_PER_FRAME)


LONGEST_SECONDS: Final = 29.9
"""What the model hears at once."""

_VOICE, _STILL_VOICE = 0.5, 0.35
"""Silero's own thresholds: where a voice begins, and what it has to fall below to end."""
_TRACE = 0.2
"""The threshold for those who want everything heard: faint and sung voices are above it, noise and tones are not."""
_LIKELY = 0.3
"""What a stretch with a trace of a voice reaches where somebody speaks."""
_MOSTLY = 0.8
"""Share of a stretch with a trace of a voice that is clear in a good recording."""
_PADDING = frames(0.4)
"""So much around a voice is heard too. Longer pauses are left out."""
_PAUSE = frames(0.1)
"""The shortest pause in which a cut is made."""
_GOOD_PAUSE = frames(0.35)
"""A cut is made in the last such pause, since one between words may be short."""
_SKIPPED = frames(1.5)
"""A voice that lasts so long is more than one word: the longest words of the recordings that were tried have 0.9 s."""
_MOMENT = frames(1.0)
"""A voice is clear for less time where most of what it says is too quiet for the detector."""
_NEAR = frames(0.3)
"""So far the time of a word may reach beyond the pause beside it."""
_SILENCE = frames(1.0)
"""A voice that begins within so much of a window's end is left to the next window."""


@dataclass(frozen=True)
class Chunk:
    """What the model hears at once. `pieces`: [from, until) in frames of the window; what lies between is silent."""

    pieces: tuple[tuple[int, int], ...]

    @property
    def frames(self) -> int:
        return sum(until - since for since, until in self.pieces)

    def of(self, audio: Samples) -> Samples:
        return np.concatenate([audio[since * FRAME : until * FRAME] for since, until in self.pieces])

    def holds(self, flags: Flags) -> bool:
        """Whether one of the window's flags is set in it."""
        return any(bool(flags[since:until].any()) for since, until in self.pieces)

    def between(self, first: int, behind: int) -> "Chunk":
        """What is in [first, behind) of the window."""
        pieces = ((max(since, first), min(until, behind)) for since, until in self.pieces)
        return Chunk(tuple((since, until) for since, until in pieces if since < until))

    def placed(self, seconds: float, *, ends: bool = False) -> float:
        """A moment of the chunk in seconds of the window. `ends`: something ends then, so it lies before a join."""
        left = seconds / SECONDS_PER_FRAME
        for since, until in self.pieces:
            if left < until - since or (ends and left <= until - since):
                return (since + left) * SECONDS_PER_FRAME
            left -= until - since
        return self.pieces[-1][1] * SECONDS_PER_FRAME


@dataclass(frozen=True)
class Cut:
    """The chunks of a window, and the frame where the next one begins: all before it is heard, or silent.

    `full`: as many chunks were found as were asked for, or the recording ends here.
    """

    chunks: tuple[Chunk, ...]
    following: int
    full: bool


def clear(probabilities: Probabilities) -> Flags:
    """Where somebody speaks without doubt."""
    return _from_until(probabilities, _VOICE, _STILL_VOICE)


def traced(probabilities: Probabilities) -> Flags:
    """Where somebody might speak."""
    return _from_until(probabilities, _TRACE, _TRACE / 2)


def silent(probabilities: Probabilities) -> list[tuple[int, int]]:
    """[start, end) of each stretch that is long enough for a sentence and has no more than moments of a clear voice."""
    speaks = clear(probabilities)
    for start, end in _runs(speaks):
        speaks[start:end] = end - start >= _MOMENT
    return [(start, end) for start, end in _runs(~speaks) if end - start >= _SKIPPED]


def voiced(probabilities: Probabilities) -> Flags:
    """Where somebody speaks: clearly, or on a telephone.

    Of a telephone's narrow band with hiss the detector is hardly sure anywhere. So a stretch with a trace of a voice
    that is not mostly clear is heard whole, if it is likely once or the window ends in it.
    """
    speaks = clear(probabilities)
    for start, end in _runs(traced(probabilities)):
        is_likely = end == len(speaks) or probabilities[start:end].max() >= _LIKELY
        if is_likely and np.count_nonzero(speaks[start:end]) < _MOSTLY * (end - start):
            speaks[start:end] = True
    return speaks


def _from_until(probabilities: Probabilities, on: float, off: float) -> Flags:
    flags = np.zeros(len(probabilities), np.bool_)
    now = False
    for frame, probability in enumerate(probabilities):
        now = probability >= (off if now else on)
        flags[frame] = now
    return flags


def cut(
    voice: Flags, *, first: int, last: bool, most: int, longest: float, everything: bool = False, apart: bool = False
) -> Cut:
    """Divides a window from the frame `first` on.

    `last`: the recording ends with the window. `most`: chunks that are wanted. `longest`: of a chunk, in seconds.
    `everything`: pauses are heard too, if there is a voice at all. `apart`: no chunk goes on after a long pause.
    """
    end = len(voice)
    kept = _padded(voice)
    if everything:
        kept[:] = voice[first:].any()
    kept[:first] = False
    room = frames(longest)
    chunks: list[Chunk] = []
    begin = first
    while len(chunks) < most:
        heard = np.flatnonzero(kept[begin:])[: room + 1] + begin
        joins = np.flatnonzero(np.diff(heard) > 1) if apart else heard[:0]
        if len(joins):
            behind = int(heard[joins[0]]) + 1
            chunks.append(Chunk(((int(heard[0]), behind),)))
            begin = behind
            continue
        if not len(heard):
            following = end if last else max(begin, end - _SILENCE)
            return Cut(tuple(chunks), following, full=last or bool(chunks))
        if len(heard) <= room:
            if not last and chunks:
                return Cut(tuple(chunks), begin, full=True)
            behind = end if last else _pause_before_the_end(voice, int(heard[0]))
            if behind == end and not last and heard[0] > begin:
                return Cut((), int(heard[0]), full=True)  # said without a pause: it is all in the next window
            chunks.append(Chunk(tuple(_pieces(kept, begin, behind))))
            return Cut(tuple(chunks), behind, full=last)
        behind = _best_pause(voice, int(heard[room // 2]), int(heard[room]))
        chunks.append(Chunk(tuple(_pieces(kept, begin, behind))))
        begin = behind
    return Cut(tuple(chunks), begin, full=True)


def _padded(voice: Flags) -> Flags:
    padded = voice.copy()
    for start, end in _runs(voice):
        padded[max(start - _PADDING, 0) : end + _PADDING] = True
    return padded


def _best_pause(voice: Flags, since: int, until: int) -> int:
    """The frame of a cut in (since, until]: the middle of the last good pause, or else of the longest one.

    Where nobody pauses it is the last frame: a word may be cut in two.
    """
    pauses = [(start + since, end + since) for start, end in _runs(~voice[since:until])]
    good = [pause for pause in pauses if pause[1] - pause[0] >= _GOOD_PAUSE]
    if good:
        start, end = good[-1]
    else:
        start, end = max(pauses, key=lambda pause: (pause[1] - pause[0], pause), default=(until, until))
        if end - start < _PAUSE:
            return until
    return max((start + end) // 2, since + 1)


def _pause_before_the_end(voice: Flags, since: int) -> int:
    """Where to stop if the next window begins with what is said at this one's end."""
    pauses = [(start + since, end + since) for start, end in _runs(~voice[since:]) if end - start >= _PAUSE]
    if not pauses or pauses[-1][0] == since:
        return len(voice)
    start, end = pauses[-1]
    return end - _SILENCE // 2 if end == len(voice) and end - start >= _SILENCE else max((start + end) // 2, since + 1)


def _pieces(kept: Flags, begin: int, behind: int) -> Iterator[tuple[int, int]]:
    return ((start + begin, end + begin) for start, end in _runs(kept[begin:behind]))


def _runs(flags: Flags) -> list[tuple[int, int]]:
    """[start, end) of each stretch of set flags."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def snapped(voice: Flags, start: float, end: float) -> tuple[float, float]:
    """A word's times without the silence before, after and in it (seconds of the window).

    Times from attention are loose by a tenth of a second or two: beyond a pause they hold the edge of the next word.
    """
    since, until = int(start / SECONDS_PER_FRAME), math.ceil(end / SECONDS_PER_FRAME)
    spoken = _runs(voice[since:until])
    if not spoken:
        return start, end
    first, behind = max(spoken, key=lambda run: run[1] - run[0])
    return (
        max(start, (since + first - 1) * SECONDS_PER_FRAME) if first else start,
        min(end, (since + behind + 1) * SECONDS_PER_FRAME) if behind < until - since else end,
    )


def parts(chunk: Chunk, heard: Sequence[tuple[float, float]], voice: Flags) -> list[Chunk]:
    """Parts to be heard one by one of a chunk that the model has not written down whole; none if it has.

    `heard`: the times of its words, in seconds of the window. A model that meets a phrase again may go on behind it:
    the word at which it does so seems to last as long. At its limit of tokens it ends before the voice does.
    """
    first, behind = chunk.pieces[0][0], chunk.pieces[-1][1]
    moments = [first, *(round(moment / SECONDS_PER_FRAME) for word in heard for moment in word), behind]
    since, until = max(itertools.pairwise(moments), key=lambda span: np.count_nonzero(voice[span[0] : span[1]]))
    if np.count_nonzero(voice[since:until]) < _SKIPPED:
        return []
    pauses = [(start, end) for start, end in _runs(~voice) if end - start >= _PAUSE]
    before = [(start + end) // 2 for start, end in pauses if start < since + _NEAR][-1:]
    after = [(start + end) // 2 for start, end in pauses if end > until - _NEAR][:1]
    cuts = [frame for frame in before + after if voice[first:frame].any() and voice[frame:behind].any()]
    return [chunk.between(*ends) for ends in itertools.pairwise([first, *cuts, behind])] if cuts else []
