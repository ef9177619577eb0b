"""The words of a text as the search in transcripts compares them, with their places. Pure.

PostgreSQL's own parser is not asked: the words have to be the same when a transcript is kept, when a query is read, and
when a hit is marked in its text. Letters are compared without case, and Latin and Greek ones without accents (there is
no `unaccent` in the PostgreSQL of `make run`). In Cyrillic, Arabic and Indic scripts a mark makes another letter, and
stays. Scripts that have no spaces between words are taken letter by letter, so any part of them is found as a phrase.
"""

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from media_core.folding import UNMARKED

MOST_LETTERS: Final = 64
"""Of a word; what follows is left out. PostgreSQL takes 2046 bytes."""

_ASCII_WORD: Final = re.compile(r"[0-9A-Za-z]+")
_HALFWIDTH_MARKS: Final = "\uff9e\uff9f"
"""Of kana. Unicode has them as letters, but a word of nothing else would be empty once it is folded."""
_UNSPACED: Final = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9D),  # halfwidth kana
    (0x20000, 0x323AF),
)


@dataclass(frozen=True)
class Word:
    """`text[first:behind]`, and how it is compared."""

    first: int
    behind: int
    folded: str


def words(text: str) -> Iterator[Word]:
    """The words of a text, in order. Numbers are words; all signs divide them."""
    spans = (match.span() for match in _ASCII_WORD.finditer(text)) if text.isascii() else _spans(text)
    for first, behind in spans:
        yield Word(first, behind, _folded(text[first:behind]))


def _spans(text: str) -> Iterator[tuple[int, int]]:
    first: int | None = None
    for at, character in enumerate(text):
        kind = _kind(character)
        if kind == "mark":
            continue  # of the letter before it, or of nothing
        if first is not None and (kind != "letter" or _kind(text[first]) == "alone"):
            yield first, at
            first = None
        if kind != "none" and first is None:
            first = at
    if first is not None:
        yield first, len(text)


@functools.lru_cache(8192)
def _kind(character: str) -> str:
    if unicodedata.category(character).startswith("M") or character in _HALFWIDTH_MARKS:
        return "mark"
    if not character.isalnum():
        return "none"
    return "alone" if any(first <= ord(character) <= last for first, last in _UNSPACED) else "letter"


@functools.lru_cache(8192)
def _folded(word: str) -> str:
    if word.isascii():
        return word.lower()[:MOST_LETTERS]
    letters = []
    base = ""
    for character in unicodedata.normalize("NFKD", word.casefold()):
        if not unicodedata.combining(character):
            base = character
        elif ord(base or "a") < 0x0400:  # Latin, Greek
            continue
        letters.append(character)
    return unicodedata.normalize("NFC", "".join(letters)).translate(UNMARKED)[:MOST_LETTERS]
