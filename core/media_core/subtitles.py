"""A transcript as subtitles: cues of at most two lines of 42 columns and seven seconds, as broadcasters have them.

A longer segment is divided between its words, at the times of its words where it has them, else in proportion to the
letters. Pure.
"""

import functools
import itertools
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LINES = 2
COLUMNS = 42
"""Of a line. Chinese, Japanese and Korean characters take two."""
SECONDS = 7.0

_WORD = re.compile(r"\S+")
_SENTENCE_ENDS = re.compile(r"""[.!?…。！？]["'”’»)\]]*$""")
# Thai, Lao, Burmese and Khmer have no spaces between words: nothing else than a line's end can divide them.
_NEVER_FIRST = frozenset(("Mn", "Mc", "Pe", "Pf", "Po"))
"""Categories of Unicode that begin no line: marks and closing signs."""
_UNSPACED = frozenset({"th", "lo", "my", "km"})


@dataclass(frozen=True)
class Cue:
    """`start` and `end` in seconds from the recording's start."""

    start: float
    end: float
    lines: tuple[str, ...]


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


def cues(segments: Iterable[Mapping[str, Any]], language: str | None) -> Iterator[Cue]:
    """The cues of segments (see `transcripts`), in order."""
    for segment in segments:
        text = _Text(segment["text"])
        if text.columns(0, len(text.text)) <= LINES * COLUMNS and segment["end"] - segment["start"] <= SECONDS:
            whole = _lines(text, [_Word(*span, 0, 0) for span in _spans(text, language)])
            if len(whole) <= LINES:
                yield Cue(segment["start"], segment["end"], whole)
                continue
        for words in _grouped(text, _timed(text, segment, language)):
            start = words[0].start
            yield Cue(start, min(words[-1].end, start + SECONDS), _lines(text, words))


def _grouped(text: _Text, words: Iterable[_Word]) -> Iterator[list[_Word]]:
    """The words of one cue after the other: as many as fit, and not much of a next sentence."""
    group: list[_Word] = []
    line, lines = 0, 1  # where the last line begins, and how many there are
    for word in words:
        if group:
            opens_line = text.columns(line, word.behind) > COLUMNS
            is_full = (opens_line and lines == LINES) or word.end - group[0].start > SECONDS
            is_sentence = (
                text.columns(group[0].first, group[-1].behind) >= COLUMNS
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


def _lines(text: _Text, words: list[_Word]) -> tuple[str, ...]:
    """The words on as few lines as they fit; two lines are about equally long. A longer word has a line of its own."""
    filled: list[list[_Word]] = []
    for word in words:
        if filled and text.columns(filled[-1][0].first, word.behind) <= COLUMNS:
            filled[-1].append(word)
        else:
            filled.append([word])
    if len(filled) != LINES:
        return tuple(text.said(line[0], line[-1]) for line in filled)
    longest = max(COLUMNS, *(text.columns(line[0].first, line[-1].behind) for line in filled))
    first, last = words[0], words[-1]

    def imbalance(divided: tuple[_Word, _Word]) -> tuple[bool, int]:
        upper = text.columns(first.first, divided[0].behind)
        lower = text.columns(divided[1].first, last.behind)
        return max(upper, lower) > longest, abs(upper - lower)

    before, after = min(itertools.pairwise(words), key=imbalance)
    return text.said(first, before), text.said(after, last)


def _spans(text: _Text, language: str | None) -> Iterator[tuple[int, int]]:
    """Where the words are. In Chinese and Japanese a line may end after any character but before no closing sign."""
    if text.text.isascii():
        yield from (match.span() for match in _WORD.finditer(text.text))
        return
    for match in _WORD.finditer(text.text):
        first = match.start()
        for at in range(first + 1, match.end()):
            character = text.text[at]
            too_long = language in _UNSPACED and text.columns(first, at) >= COLUMNS
            if not (too_long or _width(character) == 2 or _width(text.text[at - 1]) == 2):
                continue
            if unicodedata.category(character) not in _NEVER_FIRST:
                yield first, at
                first = at
        yield first, match.end()


def _timed(text: _Text, segment: Mapping[str, Any], language: str | None) -> Iterator[_Word]:
    said = deque(_placed(text.text, segment.get("words") or ()))
    start, seconds = segment["start"], segment["end"] - segment["start"]
    previous = start
    for first, behind in _spans(text, language):
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
