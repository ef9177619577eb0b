"""A transcript as subtitles: a cue for each segment, or cues of a `Shape`.

A segment that exceeds the shape is divided between its words, at their times where it has them, else in proportion to
the letters. Pure.
"""

import functools
import itertools
import re
import sys
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WORD = re.compile(r"\S+")
_SENTENCE_ENDS = re.compile(r"""[.!?…。！？]["'”’»)\]]*$""")
# Thai, Lao, Burmese and Khmer have no spaces between words: nothing else than a line's end can divide them.
_NEVER_FIRST = frozenset(("Mn", "Mc", "Pe", "Pf", "Po"))
"""Categories of Unicode that begin no line: marks and closing signs."""
_UNSPACED = frozenset({"th", "lo", "my", "km"})


@dataclass(frozen=True)
class Shape:
    """Most that a cue has."""

    columns: int = 42
    """Of a line. Chinese, Japanese and Korean characters take two."""
    lines: int = 2
    seconds: float = 7.0


BROADCAST = Shape()
"""As broadcasters have it."""
_ONE_LINE = Shape(columns=sys.maxsize, lines=1)


@dataclass(frozen=True)
class Cue:
    """`start` and `end` in seconds from the recording's start."""

    start: float
    end: float
    lines: tuple[str, ...]
    speaker: str | None = None
    pieces: tuple[tuple[tuple[str, float], ...], ...] = ()
    """The same lines, word by word, with the time at which each word begins; empty where the words have no times."""


@dataclass(frozen=True)
class _Word:
    """What is never divided: its place in the segment's text, and when it is said."""

    first: int
    behind: int
    start: float
    end: float


class _Text:
    """A segment's text on one line, and how many columns any part of it takes."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        widths = itertools.repeat(1, len(self.text)) if self.text.isascii() else map(_width, self.text)
        self._behind = [0, *itertools.accumulate(widths)]

    def columns(self, first: int, behind: int) -> int:
        return self._behind[behind] - self._behind[first]

    def said(self, first: _Word, last: _Word) -> str:
        return self.text[first.first : last.behind]


def cues(
    segments: Sequence[Mapping[str, Any]], language: str | None, asked_for: Shape | None = BROADCAST
) -> Iterator[Cue]:
    """The cues of a transcript's segments (see `formats`), in order. None: each segment is a cue as it is, unless one
    of them lasts longer than a broadcaster's cue. Then all have that shape.
    """
    has_long = any(_seconds(segment) > BROADCAST.seconds for segment in segments)
    shape = asked_for or (BROADCAST if has_long else _ONE_LINE)
    for segment in segments:
        text = _Text(segment["text"])
        words = list(_timed(text, segment, language, shape))
        fits = text.columns(0, len(text.text)) <= shape.lines * shape.columns
        if fits and _seconds(segment) <= shape.seconds:
            lines = _lines(text, words, shape)
            if len(lines) <= shape.lines:
                yield _cue(text, segment, segment["start"], segment["end"], lines)
                continue
        for group in _grouped(text, words, shape):
            start = group[0].start
            end = min(group[-1].end, start + shape.seconds)
            yield _cue(text, segment, start, end, _lines(text, group, shape))


def _seconds(segment: Mapping[str, Any]) -> float:
    """To the millisecond: 8.14 - 1.14 is a little more than 7."""
    return float(round(segment["end"] - segment["start"], 3))


def _cue(text: _Text, segment: Mapping[str, Any], start: float, end: float, lines: Sequence[Sequence[_Word]]) -> Cue:
    pieces: tuple[tuple[tuple[str, float], ...], ...] = ()
    if segment.get("words"):
        pieces = tuple(
            tuple(
                (text.text[word.first : following.first if following else word.behind], word.start)
                for word, following in itertools.zip_longest(line, line[1:])
            )
            for line in lines
        )
    return Cue(start, end, tuple(text.said(line[0], line[-1]) for line in lines), segment.get("speaker"), pieces)


def _grouped(text: _Text, words: Iterable[_Word], shape: Shape) -> Iterator[list[_Word]]:
    """The words of one cue after the other: as many as fit, and not much of a next sentence."""
    group: list[_Word] = []
    line, lines = 0, 1  # where the last line begins, and how many there are
    for word in words:
        if group:
            opens_line = text.columns(line, word.behind) > shape.columns
            is_full = (opens_line and lines == shape.lines) or word.end - group[0].start > shape.seconds
            is_sentence = (
                text.columns(group[0].first, group[-1].behind) >= shape.columns
                and _SENTENCE_ENDS.search(text.said(group[-1], group[-1])) is not None
            )
            if is_full or is_sentence:
                yield group
                group, line, lines = [], word.first, 1
            elif opens_line:
                line, lines = word.first, lines + 1
        else:
            line = word.first
        group.append(word)
    if group:
        yield group


def _lines(text: _Text, words: list[_Word], shape: Shape) -> tuple[list[_Word], ...]:
    """The words on as few lines as they fit; two lines are about equally long. A longer word has a line of its own."""
    filled: list[list[_Word]] = []
    for word in words:
        if filled and text.columns(filled[-1][0].first, word.behind) <= shape.columns:
            filled[-1].append(word)
        else:
            filled.append([word])
    if len(filled) != 2:
        return tuple(filled)
    longest = max(shape.columns, *(text.columns(line[0].first, line[-1].behind) for line in filled))
    first, last = words[0], words[-1]

    def imbalance(place: int) -> tuple[bool, int]:
        upper = text.columns(first.first, words[place - 1].behind)
        lower = text.columns(words[place].first, last.behind)
        return max(upper, lower) > longest, abs(upper - lower)

    divided = min(range(1, len(words)), key=imbalance)
    return words[:divided], words[divided:]


def _spans(text: _Text, language: str | None, shape: Shape) -> Iterator[tuple[int, int]]:
    """Where the words are. In Chinese and Japanese a line may end after any character but before no closing sign."""
    if text.text.isascii():
        yield from (match.span() for match in _WORD.finditer(text.text))
        return
    for match in _WORD.finditer(text.text):
        first = match.start()
        for at in range(first + 1, match.end()):
            character = text.text[at]
            too_long = language in _UNSPACED and text.columns(first, at) >= shape.columns
            if not (too_long or _width(character) == 2 or _width(text.text[at - 1]) == 2):
                continue
            if unicodedata.category(character) not in _NEVER_FIRST:
                yield first, at
                first = at
        yield first, match.end()


def _timed(text: _Text, segment: Mapping[str, Any], language: str | None, shape: Shape) -> Iterator[_Word]:
    said = deque(_placed(text.text, segment.get("words") or ()))
    start, seconds = segment["start"], segment["end"] - segment["start"]
    previous = start
    for first, behind in _spans(text, language, shape):
        heard: _Word | None = None
        begins, ends = (start + seconds * place / len(text.text) for place in (first, behind))
        while said and said[0].first < behind:
            begins, ends = said[0].start if heard is None else begins, said[0].end
            heard = said[0]
            if heard.behind > behind:
                break  # a part of it is in the next one
            said.popleft()
        begins = max(begins, previous)
        previous = max(ends, begins)
        yield _Word(first, behind, begins, previous)


def _placed(text: str, words: Iterable[Mapping[str, Any]]) -> list[_Word]:
    """The stored words at their places in the text. Those that are not found there are left out."""
    found, at = [], 0
    for word in words:
        spelled = word["word"].strip()
        first = text.find(spelled, at) if spelled else -1
        if first >= 0:
            at = first + len(spelled)
            found.append(_Word(first, at, word["start"], word["end"]))
    return found


@functools.lru_cache(4096)
def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
