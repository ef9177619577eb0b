"""Words with times become segments: sentences, or phrases between pauses where nobody writes punctuation."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Word:
    """`text` with the space before it, as the model writes it. Times in seconds."""

    text: str
    start: float
    end: float
    probability: float
    language: str | None = None
    """Where each part of a recording may have its own."""


PAUSE_SECONDS: Final = 1.5
"""A pause so long ends a segment within a sentence too."""
UNPUNCTUATED_PAUSE_SECONDS: Final = 0.4
"""The same where no sentence ends anywhere in the text."""
LONGEST_SECONDS: Final = 30.0

_END: Final = re.compile(r"[.!?…。！？]['\"”’»)\]]*$")
# A full stop after these ends no sentence.
_ABBREVIATED: Final = re.compile(
    r"(?:^|\W)(?:mr|mrs|ms|dr|st|prof|rev|hon|gen|col|capt|lt|sgt|sr|jr|vs|etc|e\.g|i\.e|no|vol|bzw|ca|nr|str|z\.b|d\.h"
    r"|mme|mlle|sra|\w)\.$",
    re.IGNORECASE,
)


def divided(words: Sequence[Word], *, until: float | None = None) -> tuple[list[list[Word]], list[Word]]:
    """The segments, and the words of the last one if it may go on. No word is lost.

    `until`: the words said before this moment are all here; None: nothing follows.
    """
    pause = PAUSE_SECONDS if any(_END.search(word.text.strip()) for word in words) else UNPUNCTUATED_PAUSE_SECONDS
    segments: list[list[Word]] = []
    current: list[Word] = []
    for word in words:
        if current and (_divides(current[-1], word, pause) or word.end - current[0].start > LONGEST_SECONDS):
            segments.append(current)
            current = []
        current.append(word)
    if current and (until is None or until - current[-1].end >= pause or _is_end(current[-1])):
        segments.append(current)
        current = []
    return segments, current


def _divides(last: Word, following: Word, pause: float) -> bool:
    if following.start - last.end >= pause or following.language != last.language:
        return True
    return _is_end(last) and not following.text.strip().lstrip("'\"“‘«([¿¡")[:1].islower()


def _is_end(word: Word) -> bool:
    text = word.text.strip()
    return bool(_END.search(text)) and not _ABBREVIATED.search(text)
