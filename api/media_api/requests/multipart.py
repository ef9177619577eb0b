"""A form, read as it arrives: the file's bytes are handed on, never gathered, never spooled to disk.

Fields may come before or after the file (the published curl sends `tenant_scope` after it), so they are complete only
after the last chunk. All that is not the file (preamble, part headers, fields, epilogue) has one cap together. A form
without a file may also be urlencoded, as client libraries send one.
"""

import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote

from fastapi import Request
from multipart import (  # type: ignore[import-untyped]  # it publishes no types
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from media_api.requests.body import chunks, chunks_or_socket, media_type_of
from media_api.requests.filenames import BY_AIOHTTP, BY_NEEDLE, PARAMETER, codec_of, filename_of, text_of
from media_api.requests.socket_body import SocketBody
from media_api.requests.wrong_input import INDEX, refused, unknown
from media_core.errors import Refused
from media_core.store import BodySource

MAX_FIELDS: Final = 64
MAX_FIELD_BYTES: Final = 16 * 1024
MAX_OVERHEAD_BYTES: Final = 256 * 1024
"""Most bytes of the request's body that are not the file."""
MAX_BOUNDARY_CHARACTERS: Final = 200
MAX_TYPE_CHARACTERS: Final = 127
DELIMITER_BYTES: Final = MAX_BOUNDARY_CHARACTERS + len("\r\n----")
"""Most bytes of a line with the boundary."""
_BOUNDARY_OF_AIOHTTP: Final = re.compile(rb"[0-9a-f]{32}")
_BOUNDARY_OF_NEEDLE: Final = b"-" * 20 + b"NODENEEDLEHTTPCLIENT"
_FILE: Final = "file"
"""Name of the part that is the file."""
_ESCAPED: Final = re.compile(r"\\(.)")
_URLENCODED: Final = "application/x-www-form-urlencoded"
_AS_MULTIPART: Final = "A file is sent as multipart/form-data (with curl: -F file=@path)."

IGNORED_FIELDS: Final = frozenset(
    {
        *("name", "type", "size", "relativePath", "webkitRelativePath", "lastModified", "lastModifiedDate"),
        *("filename", "fileName", "Filename", "Upload", "filepond", "qqfilename", "qquuid", "qqtotalfilesize"),
        "_charset_",
    }
)
"""What upload widgets of browsers send beside the file. They repeat what the file part says, and are not read."""

_AS_THEY_ARE: Final = frozenset({"binary", "7bit", "8bit", "identity"})
"""Encodings of a part whose bytes are those of the file. RFC 7578, 4.7 has no others; libraries for mail write them."""
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


Choice = TypeVar("Choice", bound=str)


class Form:
    """One request's form. Iterate `file` to its end, then read the fields. Only fields named in `fields` are accepted.

    Every method may raise Refused: `unsupported_media_type`, `invalid_request`, `missing_file`, `request_timeout` (no
    byte for `idle_seconds`, or too slow). Raises ClientGone when the client went away.
    """

    def __init__(
        self,
        request: Request,
        fields: Collection[str],
        *,
        idle_seconds: float,
        repeatable: Collection[str] = (),
        hashed: bool = False,
    ) -> None:
        """`repeatable`: those of `fields` that may come several times. `hashed`: `sha256` will be asked for."""
        self._request = request
        self._known = fields
        self._repeatable = repeatable
        self._idle_seconds = idle_seconds
        self._boundary = None if _has_no_file(request) else _boundary(request.headers.get("content-type", ""))
        self._fields: dict[str, list[str]] = {}
        self._part: MultipartSegment | None = None
        """The part that is under way, and its `_value` where it is not the file."""
        self._value = bytearray()
        self._is_file = False
        self._overhead = 0
        """Bytes of the body so far that are not the file's."""
        self._hash = hashlib.sha256() if hashed else None
        self.filename: str | None = None
        """Name of the file part without any path; None until the part has begun, or if there is none."""
        self.claimed_type: str | None = None
        """The file's media type according to the client."""

    async def file(self) -> AsyncGenerator[bytes | BodySource]:
        """The bytes of the file part, in chunks as they arrive; reads the whole request. Behind a chunk of a fast
        client a source, from which the consumer may read what follows.
        """
        if self._boundary is None:
            await self._read_urlencoded()
            return
        with _broken_form_refused(), _parser(self._boundary) as parser:
            parsed = partial(self._parsed, parser)
            async with aclosing(chunks_or_socket(self._request, self._idle_seconds)) as received:
                async for chunk in received:
                    if isinstance(chunk, bytes):
                        for data in parsed(chunk):
                            yield data
                    elif chunk is not None and self._is_file:
                        yield _FileSource(chunk, parsed)
                    chunk = data = b""  # frees a quarter of a MiB while the next chunk is waited for

    def _parsed(self, parser: PushMultipartParser, chunk: bytes) -> Iterator[bytes]:
        """The file's bytes in the next chunk of the body."""
        self._overhead += len(chunk)
        if self._hash is not None:
            self._hash.update(chunk)
        for event in parser.parse(chunk):
            if data := self._of_file(event):
                self._overhead -= len(data)
                yield data
        if self._overhead > MAX_OVERHEAD_BYTES:
            raise _too_long()

    def _of_file(self, event: MultipartSegment | bytes | None) -> bytes:
        """The bytes of the file part in what the parser says next: a part's head, bytes of it, or None at its end."""
        if isinstance(event, MultipartSegment):
            self._part, self._value = event, bytearray()
            self._is_file = self._begin(event)
        elif self._is_file:
            return bytes(event or b"")
        elif event is not None:
            self._value += event
            if len(self._value) > MAX_FIELD_BYTES:
                raise _too_long_field(self._own_name(_name_of(self._part)))
        else:
            self._end(self._own_name(_name_of(self._part)), self._value)
        return b""

    async def _read_urlencoded(self) -> None:
        """All of a form that has no file: its body is empty, or application/x-www-form-urlencoded."""
        received = bytearray()
        async with aclosing(chunks(self._request, self._idle_seconds)) as arriving:
            async for chunk in arriving:
                received += chunk
                if len(received) > MAX_OVERHEAD_BYTES:
                    raise _invalid(f"An urlencoded form may have at most {MAX_OVERHEAD_BYTES} bytes. {_AS_MULTIPART}")
        if self._hash is not None:
            self._hash.update(received)
        try:
            fields = parse_qsl(
                received.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS + 1
            )
        except ValueError:  # UnicodeDecodeError is one
            raise _invalid(
                f"The form is not urlencoded UTF-8, or has more than {MAX_FIELDS} fields. {_AS_MULTIPART}"
            ) from None
        for name, value in fields:
            field = self._own_name(name)
            if field != _FILE:
                self._begin_field(field)
            data = bytearray(value.encode())
            if len(data) > MAX_FIELD_BYTES:
                raise _too_long_field(field)
            self._end(field, data)

    def _own_name(self, name: str) -> str:
        """The name of the form's field. Of a list `name[]` clients also send `name`, `name[0]` and `name%5B%5D`."""
        as_list = INDEX.sub("", unquote(name)) + "[]"
        return as_list if as_list in self._repeatable else name

    def _begin_field(self, field: str) -> None:
        """Raises Refused for a field that this form does not have, or has had."""
        if field not in self._known:
            if field in IGNORED_FIELDS:
                return
            told = unknown(field, self._known, "a field of this form")
            # curl's --data-binary sends a file like that: its bytes look like the name of a field.
            raise refused(field, told.rstrip("."), told if self._boundary is not None else f"{told} {_AS_MULTIPART}")
        if field in self._fields and field not in self._repeatable:
            raise wrong_field(field, "was sent twice; this form takes it once")

    def _begin(self, segment: MultipartSegment) -> bool:
        """Whether the part that begins is the file."""
        for header in ("Content-Transfer-Encoding", "Content-Encoding"):
            if (segment.header(header) or "binary").strip().lower() not in _AS_THEY_ARE:
                raise Refused("unsupported_media_type", f"Send each part of the form without {header}, as it is.")
        filename = filename_of(
            segment.header("Content-Disposition", ""),
            segment.filename,
            _percent_encoding(segment, self._boundary),
        )
        if segment.name != _FILE:
            field = self._own_name(_name_of(segment))
            # Fields may have a file name, too: browsers name a field that has a type, `blob`.
            if filename is not None and field not in self._known:
                raise _invalid(f"The file must be sent as the form field `{_FILE}`.")
            self._begin_field(field)
            return False
        if filename is None and segment.content_type is None:
            return False  # a file that was left out of a form in a browser is an empty text; any other is refused
        if self.filename is not None:
            raise _invalid("A request takes one file.")
        self.filename = filename or "file"
        self.claimed_type = claimed_type_of(segment.content_type or "")
        return True

    def _end(self, field: str, value: bytearray) -> None:
        """A part that is not the file has come whole."""
        if field != _FILE:
            if field in self._known:
                charset = None if self._part is None else self._part.charset
                self._fields.setdefault(field, []).append(_text(field, value, charset))
        elif value and not value.startswith(b"{"):  # FilePond sends what it knows of the file under the file's name
            raise _no_file()

    def sha256(self) -> str | None:
        """Of the whole body, in hex; None if the form is not `hashed`."""
        return None if self._hash is None else self._hash.hexdigest()

    def text(self, name: str) -> str | None:
        """The field's text; None if it was not sent or is empty."""
        return (self._fields.get(name) or [""])[-1] or None

    def texts(self, name: str) -> list[str]:
        """Of a repeatable field, in the order in which they came; empty ones are left out."""
        return [text for text in self._fields.get(name, ()) if text]

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self.text(name)
        return default if value is None else flag_of(name, value)

    def number(self, name: str, most: int) -> int | None:
        """A whole number from 1 to `most`; None if it was not sent."""
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdecimal() and len(value) < 10 and 1 <= int(value) <= most):
            raise wrong_field(name, f"must be a whole number from 1 to {most}")
        return int(value)

    def choice(self, name: str, allowed: tuple[Choice, ...]) -> Choice:
        """One of `allowed`, by default the first."""
        value = self.text(name) or allowed[0]
        for choice in allowed:
            if choice == value:
                return choice
        raise wrong_field(name, f"must be one of {', '.join(allowed)}")


class _FileSource:
    """The file's bytes in what a socket has: a `media_core.store.BodySource`."""

    def __init__(self, body: SocketBody, parsed: Callable[[bytes], Iterator[bytes]]) -> None:
        self._body = body
        self._parsed = parsed
        self._held = DELIMITER_BYTES
        """Most bytes that the parser may have kept: the beginning of a boundary, given out with what is read next."""

    @property
    def left(self) -> int:
        return self._body.left

    def read_into(self, buffer: memoryview) -> int:
        """Raises Refused, as the form does."""
        at = 0
        while not at and (read := self._body.read_into(buffer[: max(0, len(buffer) - self._held)])):
            self._held, chunk = DELIMITER_BYTES, bytes(buffer[:read])
            with _broken_form_refused():
                for data in self._parsed(chunk):
                    if data is chunk:  # all of it is the file's, and stands in the buffer already
                        self._held = 0
                    else:
                        buffer[at : at + len(data)] = data
                    at += len(data)
        return at


def flag_of(name: str, value: str) -> bool:
    """Raises Refused `invalid_request` where the field `name` is neither true nor false."""
    if value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise wrong_field(name, "must be true or false")


def wrong_field(name: str, what: str) -> Refused:
    """`what` is wrong with the field: the rest of a sentence, without its full stop."""
    return refused(name, what, f"`{name}` {what}.")


def claimed_type_of(said: str) -> str | None:
    """The media type that a client names for a file; None if there is none, or none that can be printed."""
    return said if said.isprintable() and 0 < len(said) <= MAX_TYPE_CHARACTERS else None


def _has_no_file(request: Request) -> bool:
    """Whether the request is a form that can have no file: an urlencoded one, or none at all."""
    headers = request.headers
    is_empty = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
    return media_type_of(request) == _URLENCODED or (is_empty and "content-type" not in headers)


def _parser(boundary: bytes) -> PushMultipartParser:
    # One character a byte: which character set a file name has is told apart by `filenames`.
    return PushMultipartParser(boundary, max_segment_count=MAX_FIELDS + 1, header_charset="latin-1")


def _boundary(content_type: str) -> bytes:
    kind, _ = parse_options_header(content_type)
    if kind != "multipart/form-data":
        raise Refused(
            "unsupported_media_type",
            "Send a form, Content-Type: multipart/form-data (with curl: -F name=value, for a file -F file=@path).",
        )
    boundary = ""
    for parameter in PARAMETER.finditer(content_type):
        if parameter[1].lower() == "boundary":
            boundary = parameter[2].strip()
    if boundary.startswith('"'):
        boundary = _ESCAPED.sub(r"\1", boundary[1:-1])
    else:  # clients also leave out the quotes where it has one of `=/:?`
        boundary = "".join(boundary.split()[:1]).rstrip(",")
    if not 0 < len(boundary) <= MAX_BOUNDARY_CHARACTERS or not boundary.isascii() or not boundary.isprintable():
        raise _invalid("The Content-Type names no usable boundary; let the client library write that header.")
    return boundary.encode()


def _percent_encoding(segment: MultipartSegment, boundary: bytes | None) -> re.Pattern[str] | None:
    """How the client that wrote the part encodes a file name; None: not at all.

    aiohttp's boundary is 32 hex digits, and its part begins with the type. Of the other known libraries none has both:
    Dart's boundaries differ, and the rest begin with the disposition.
    """
    if boundary == _BOUNDARY_OF_NEEDLE:
        return BY_NEEDLE
    is_of_aiohttp = _BOUNDARY_OF_AIOHTTP.fullmatch(boundary or b"") and segment.headerlist[0][0] == "Content-Type"
    return BY_AIOHTTP if is_of_aiohttp else None


def _text(field: str, value: bytearray, charset: str | None) -> str:
    """The field's text: in UTF-8, or in the character set that its part names (RFC 7578, 4.5)."""
    codecs = ["utf-8-sig"]
    with suppress(LookupError):
        codecs.insert(0 if 0 in value else 1, codec_of(charset or ""))  # letters of UTF-16 are UTF-8 with NUL
    for codec in codecs:
        with suppress(LookupError, UnicodeError):
            text = value.decode(codec)
            if "\0" in text:
                raise wrong_field(field, "must be a text without NUL")
            return text
    raise wrong_field(field, "must be a text in UTF-8")


def _name_of(segment: MultipartSegment) -> str:
    return text_of((segment.name or "").encode("latin-1", "replace"))


@contextmanager
def _broken_form_refused() -> Iterator[None]:
    try:
        yield
    except ParserLimitReached:
        raise _invalid(
            f"The form has more than {MAX_FIELDS} fields beside its file, or a part's head is too long."
        ) from None
    except MultipartError:
        raise _invalid(
            "The multipart form is broken: it ends early, or a part's head is not as RFC 7578 has it."
        ) from None


def _too_long() -> Refused:
    return _invalid(f"The form has more than {MAX_OVERHEAD_BYTES} bytes beside its file.")


def _no_file() -> Refused:
    lack = "its part has neither a file name nor a type"
    return Refused("missing_file", f"`{_FILE}` was sent as text: {lack} (with curl: -F {_FILE}=@path).")


def _too_long_field(field: str) -> Refused:
    if field == _FILE:
        return _no_file()
    return wrong_field(field, f"may have at most {MAX_FIELD_BYTES} bytes")


def _invalid(detail: str) -> Refused:
    return Refused("invalid_request", detail)
