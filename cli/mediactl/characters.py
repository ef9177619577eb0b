"""Which characters of other people's texts a terminal and a file system can show as they are."""

import unicodedata

_NOT_SHOWN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")
"""What turns the direction of writing: a name could lie about its extension."""


def is_shown(character: str) -> bool:
    """`str.isprintable` is false of what joins an emoji, divides a Persian word, or is a space in Japanese."""
    return unicodedata.category(character) not in _NOT_SHOWN and character not in _TURNING
