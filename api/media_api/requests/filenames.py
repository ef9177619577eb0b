"""File names as clients send them in a form, and as a file system would keep them.

RFC 7578 asks for UTF-8 in `filename` and for nothing else. Clients also send `filename*` (RFC 5987; .NET, older
requests), names in pieces (RFC 2231; mail libraries), encoded words (RFC 2047; .NET's `filename`), percent-encoding
(aiohttp, needle), quotes that nothing marks as the name's (Guzzle, Faraday), and other character sets. `filename*` is
taken first: clients that send both put an ASCII makeshift into the other.
"""

import encodings.aliases
import pkgutil
import re
import unicodedata
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import Final
from urllib.parse import quote, unquote_to_bytes

MAX_FILENAME_BYTES: Final = 255
"""What file systems take, in UTF-8."""
MAX_EXTENSION_BYTES: Final = 32
_TAR: Final = ".tar"
"""What stands before the extension of a compressed archive, and says as much."""

PARAMETER: Final = re.compile(r";\s*([\w*]+)\s*=\s*(\"(?:\\.|[^\"\\])*\"|[^;]*)")
_END_OF_QUOTED: Final = re.compile(r"\"\s*(?:;|$)")
_EXTENDED: Final = re.compile(r"([\w.:-]+)'[^']*'(.+)")
MOST_PIECES: Final = 100
"""Of a name in pieces (RFC 2231, 3)."""
_ENCODED_WORDS: Final = re.compile(r"\s*(=\?[\w.:-]+(?:\*[\w-]*)?\?[bq]\?[^?\s]*\?=\s*)+", re.IGNORECASE)
_CHARSET_OF_WORD: Final = re.compile(r"=\?([\w.:-]+)(?:\*[\w-]*)?\?(?=[bq]\?)", re.IGNORECASE)
"""Behind it may stand a language (RFC 2231, 5)."""
BY_AIOHTTP: Final = re.compile(r'"((?:[\w.~-]|%[0-9A-F]{2})+)"', re.ASCII)
BY_NEEDLE: Final = re.compile(r'"((?:[\w.~!\'()*-]|%[0-9A-F]{2})+)"', re.ASCII)
"""The parameter `filename` as clients write it that percent-encode every name."""
_NO_CHARSETS: Final = frozenset({"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"})
"""Codecs of Python that decode text and are no character sets. Two take a time that grows with the square of a name."""
_CHARSETS: Final = {
    **{module.name: module.name for module in pkgutil.iter_modules(encodings.__path__)},
    **encodings.aliases.aliases,
}
"""Python's codec by the names it goes by. Python itself remembers every other name that it was ever asked for."""
_WINDOWS_PATH: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\|\.\.?\\")
# What turns the direction of writing: `evil<U+202E>gnp.exe` would be shown as evilexe.png.
_TURNING: Final = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")
# An emoji that is made of several characters continues with one of these.
_JOINERS: Final = frozenset("\u200d\ufe0e\ufe0f")
_NOT_KEPT: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def filename_of(disposition: str, plain: str | None, percent_encoded: re.Pattern[str] | None = None) -> str | None:
    """The name of a file part, without its path; None where it has none.

    `disposition` is the whole Content-Disposition, `plain` its parameter `filename`; both with one character a byte, as
    ISO 8859-1 decodes them. `percent_encoded`: how the client writes `filename`; of most others `%20` is the name.
    """
    parameters: dict[str, str] = {}
    name_ends = 0
    for parameter in PARAMETER.finditer(disposition):
        if parameter.start() < name_ends:
            continue  # what looks like a parameter within a name with quotes
        key = parameter[1].lower()
        if key == "filename" and key not in parameters and (quoted := _with_quotes(disposition, parameter)):
            plain, name_ends = quoted, parameter.start(2) + len(quoted)
        parameters.setdefault(key, parameter[2].strip())
    extended = _EXTENDED.fullmatch(parameters.get("filename*", "").strip('"')) or _in_pieces(parameters)
    if extended is not None:
        name = unquote_to_bytes(extended[2].encode("latin-1"))
        try:
            told = name.decode(codec_of(extended[1]))
            # .NET Framework writes each half of an emoji by itself. Its `filename` has the name as encoded words.
            if "\ufffd" not in told or not _ENCODED_WORDS.fullmatch(plain or ""):
                return sanitized(told)
        except (LookupError, UnicodeError):  # the character set is unknown; `filename` is read instead
            if "filename" not in parameters:
                return sanitized(text_of(name))
    stated = parameters.get("filename", '"')
    if percent_encoded is not None and (encoded := percent_encoded.fullmatch(stated)):
        return sanitized(text_of(unquote_to_bytes(encoded[1])))
    plain = plain if stated.startswith('"') else stated
    if plain is None:
        return None
    if _ENCODED_WORDS.fullmatch(plain):
        try:
            words = _CHARSET_OF_WORD.sub(lambda match: f"=?{codec_of(match[1])}?", plain)
            return sanitized(str(make_header(decode_header(words))))
        except (LookupError, ValueError, HeaderParseError):
            pass
    if not _WINDOWS_PATH.match(plain):
        plain = plain.replace("\\\\", "\\")  # a backslash of a quoted string, which some clients escape
    return sanitized(text_of(plain.encode("latin-1", "replace")))


def _with_quotes(disposition: str, parameter: re.Match[str]) -> str | None:
    """The whole name where it contains unescaped quotes, as in `filename="say "a".txt"`. None: it contains none."""
    if not parameter[2].startswith('"') or disposition[parameter.end() :].lstrip()[:1] in ("", ";"):
        return None
    end = _END_OF_QUOTED.search(disposition, parameter.end())
    return None if end is None else disposition[parameter.start(2) + 1 : end.start()]


def codec_of(name: str) -> str:
    """Python's name for a character set. Raises LookupError for what is none."""
    codec = _CHARSETS[encodings.normalize_encoding(name).lower().replace(".", "_")]
    if codec in _NO_CHARSETS:
        raise LookupError(name)
    return codec


def _in_pieces(parameters: dict[str, str]) -> re.Match[str] | None:
    """A name in numbered pieces, as libraries for mail write one (RFC 2231, 3 and 4.1), as if it were in one."""
    pieces = []
    for number in range(MOST_PIECES):
        coded, plain = parameters.get(f"filename*{number}*"), parameters.get(f"filename*{number}")
        if coded is not None:
            pieces.append(coded)
        elif plain is not None:
            pieces.append(quote(plain.strip('"'), safe="", encoding="latin-1"))
        else:
            break
    if pieces and "filename*0*" not in parameters:
        pieces.insert(0, "utf-8''")
    return _EXTENDED.fullmatch("".join(pieces))


def text_of(received: bytes) -> str:
    """UTF-8, or what older Windows clients send in its place."""
    try:
        return received.decode()
    except UnicodeDecodeError:
        return received.decode("cp1252", "replace")


def is_kept(character: str) -> bool:
    """Whether a text for people may have it. `str.isprintable` is no help: it is false of what joins an emoji, of what
    divides a Persian word, and of the spaces of Japanese.
    """
    return unicodedata.category(character) not in _NOT_KEPT and character not in _TURNING


def sanitized(name: str) -> str:
    """The last part of a client's path, without what no file system keeps or what would lie about its extension."""
    if _WINDOWS_PATH.match(name):
        name = name.replace("\\", "/")
    last = name.rpartition("/")[2]
    shown = "".join(filter(is_kept, last)).strip()
    if not shown.strip("."):
        return "file"
    return _shortened(shown)


def _shortened(name: str) -> str:
    """At most `MAX_FILENAME_BYTES`, the extension kept."""
    if len(name.encode()) <= MAX_FILENAME_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    ending = dot + extension
    if stem.endswith(_TAR):
        stem, ending = stem.removesuffix(_TAR), _TAR + ending
    if not stem or len(ending.encode()) > MAX_EXTENSION_BYTES:
        stem, ending = name, ""
    cut = stem.encode()[: MAX_FILENAME_BYTES - len(ending.encode())].decode(errors="ignore")
    # Not in the middle of what is one sign to a reader: a letter and its accents, an emoji and what it is joined with.
    while cut and (unicodedata.combining(stem[len(cut)]) or stem[len(cut)] in _JOINERS or cut[-1] == "\u200d"):
        cut = cut[:-1]
    return cut.rstrip() + ending
