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
from contextlib import contextmanager
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
        structlog.stdlib.add_log_level,
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
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


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


def _masked(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name) and isinstance(value, str | bytes):
        return _MASK
    if isinstance(value, str):
        return _plain(_SECRET_TEXT.sub(lambda found: (found["before"] or "") + _MASK, value))
    if isinstance(value, Mapping):
        return {key: _masked(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked("", inner) for inner in value]
    return value
