"""Structured logs: one line of JSON an event, or readable text on a terminal.

Each request and each job writes exactly one line when it ends (`request`, `job`). Both have `request_id`, so a job's
line can be found from the request that queued it. Every line logged inside `bound(...)` has the bound values.

No secret reaches a line. All lines pass `_mask`, those of the standard library's loggers and tracebacks included. It
masks values whose names sound secret, and text that looks like a token, a password in a URL or a signature.
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["json", "text"]

_SECRET_NAME: Final = re.compile(r"(?i)authorization|token|passw|secret|signature|credential|cookie|private")
_SECRET_TEXT: Final = re.compile(
    r"(?i)(?P<before>bearer\s+|://[^\s:/@]*:|[?&](?:x-amz-[a-z-]+|signature|token)=)[^\s&\"'@]+"
    r"|\beyJ[\w-]{8,}(?:\.[\w-]*){1,4}"
)
_MASK: Final = "***"


def configure(log_format: Format = "json", level: str = "info", stream: TextIO | None = None) -> None:
    """Sends this process's logs, structlog's and the standard library's alike, to `stream` (default stderr)."""
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _mask,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="time")
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Libraries log their requests, with URLs, at info. Their warnings are wanted.
    for chatty in ("httpx", "httpcore", "botocore", "boto3", "urllib3", "alembic", "uvicorn", "asyncio", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda name: _Lines(name, handler),
        cache_logger_on_first_use=False,
    )


class _Lines:
    """structlog's lines, written by themselves: as records of the standard library each would take twice as long, and
    every request has one.
    """

    def __init__(self, name: str, handler: "logging.StreamHandler[TextIO]") -> None:
        self.name = name
        self._handler = handler

    def msg(self, line: str) -> None:
        with self._handler.lock or nullcontext():  # the other lines' lock, too
            self._handler.stream.write(line + "\n")
            self._handler.flush()

    debug = info = warning = error = critical = msg


@contextmanager
def bound(**values: object) -> Iterator[None]:
    """Adds `values` (`request_id`, `job_id`, ...) to every line logged inside the block, child tasks included."""
    with structlog.contextvars.bound_contextvars(**values):
        yield


def request_id() -> str | None:
    """The id of the request, or of the job's request, whose block of `bound` this runs in."""
    bound_id: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return bound_id


def _plain(words: str) -> str:
    """`words` with control characters escaped, as a request could send them to a terminal. Line breaks stay."""
    if words.isprintable():
        return words
    return "".join(one if one.isprintable() or one in "\n\t" else f"\\x{ord(one):02x}" for one in words)


def _mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: _masked(name, value) for name, value in event.items()}


def _may_hide_a_secret(lower: str) -> bool:
    """Each alternative of `_SECRET_TEXT` has one of these. To look for them takes an eighth of its time."""
    return "=" in lower or "://" in lower or "eyj" in lower or "bearer" in lower


@lru_cache(1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _masked(name: str, value: Any) -> Any:
    if _is_secret(name) and isinstance(value, str | bytes):
        return _MASK
    if isinstance(value, str):
        if _may_hide_a_secret(value.lower()):
            value = _SECRET_TEXT.sub(lambda found: (found["before"] or "") + _MASK, value)
        return _plain(value)
    if isinstance(value, Mapping):
        return {key: _masked(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked("", inner) for inner in value]
    return value
