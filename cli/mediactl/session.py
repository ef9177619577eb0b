"""Who asks, and where; and what failure looks like to a shell.

Exit codes: 0 done, 1 the API refused (or the work failed), 2 the command can't be carried out as given, 3 nobody
answers at BASE, 130 interrupted. A failure is one line on standard error, with `--json` one JSON object; never a
traceback.
"""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer

from mediactl import render
from mediactl.client import Api, Failed, Misuse, Problem, Unreachable, path_of
from mediactl.resuming import FROM_BYTES, Resuming, Unspoken
from mediactl.transfer import Source, send

HOW_TO_SIGN_IN = (
    "`source .run/env` after `make run`, or mint one: "
    "export TOKEN=$(mediactl token --signing-key .run/TENANT/signing-keys.json --sub NAME --room ROOM)"
)
HINTS = {
    "unauthorized": HOW_TO_SIGN_IN,
    "quota_exceeded": "`mediactl usage` shows what is stored; `mediactl rm ID` makes room. `mediactl ls ROOM` names "
    "ids; a file uploaded without a room is found only by its id, which `upload` printed",
    "scan_pending": "`mediactl info` shows the verdict when it is there",
    "insufficient_scope": "`mediactl token` shows what the token allows",
}
T = TypeVar("T")


@dataclass
class Session:
    """What every command has: where the API is, who asks, and whether a script reads the answer."""

    base: str | None
    token: str | None
    as_json: bool

    @functools.cached_property
    def api(self) -> Api:
        if not self.base:
            raise Misuse("BASE is not set: `source .run/env` after `make run`, or give --base http://HOST:PORT")
        if not self.token:
            raise Misuse(f"TOKEN is not set: {HOW_TO_SIGN_IN}")
        return Api(self.base, self.token.strip(), on_wait=_say_wait)


@contextlib.contextmanager
def failures_as_exit_codes(as_json: bool, argument: str | None = None) -> Iterator[None]:
    """A failure as one line and its exit code; `argument` is the one of several that it is about."""

    def fail(exit_code: int, sentence: str, /, **facts: object) -> typer.Exit:
        if as_json:
            facts = facts if argument is None else {"argument": argument, **facts}
            print(json.dumps({"detail": sentence, **facts}, ensure_ascii=False), file=sys.stderr)
        elif argument is None or sentence.startswith(f"{argument}: "):
            render.failure(sentence)
        else:
            render.failure(f"{argument}: {sentence}")
        return typer.Exit(exit_code)

    try:
        yield
    except Problem as problem:
        facts = {"status": problem.status, "code": problem.code, "request_id": problem.request_id, **problem.facts}
        if as_json:
            raise fail(1, problem.detail, **facts) from None
        raise fail(1, _sentence(problem)) from None
    except Failed as error:
        raise fail(1, str(error)) from None
    except Misuse as error:
        raise fail(2, str(error)) from None
    except Unreachable as error:
        hint = "start it with `make run`, or set BASE to where it is" if "nothing answers" in str(error) else ""
        raise fail(3, f"{error}; {hint}" if hint else str(error)) from None
    except BrokenPipeError:
        # The reader has seen enough (`mediactl ls ROOM | head`); Python must not complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as error:
        raise fail(2, f"{error.filename or 'this machine'}: {error.strerror or error}") from None
    except KeyboardInterrupt:
        raise fail(130, "interrupted") from None
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:
        if os.environ.get("MEDIACTL_DEBUG"):
            raise
        raise fail(1, f"unexpected {type(error).__name__}: {error} (MEDIACTL_DEBUG=1 shows where)") from None


def each(session: Session, arguments: Sequence[T], act: Callable[[T], None]) -> None:
    """`act` on every argument, whatever is wrong with another; exit code 1 at the end if something was.

    Only where nobody answers, or somebody interrupts, there is no point in going on.
    """
    if len(arguments) == 1:
        act(arguments[0])
        return
    failed = False
    for argument in arguments:
        try:
            with failures_as_exit_codes(session.as_json, str(argument)):
                act(argument)
        except typer.Exit as ended:
            if ended.exit_code in {3, 130}:
                raise
            failed = True
    if failed:
        raise typer.Exit(1)


def send_with_bar(session: Session, path: str, source: Source, fields: dict[str, str]) -> dict[str, Any]:
    """POSTs `source` as the form's file, and shows how far it is. Returns the answer's data."""
    api = session.api
    with render.transfer_progress() as progress:
        task = progress.add_task(render.printable(source.name), total=source.size)
        return send(api, path, source, fields, on_bytes=lambda count: progress.advance(task, count))


def upload_with_bar(session: Session, path: Path, source: Source, fields: dict[str, str]) -> dict[str, Any]:
    """Uploads `source`: what is large in several requests, where the API takes that. Returns the answer's data."""
    one_request = path_of("media", "upload")
    if source.size is None or source.size < FROM_BYTES:
        return send_with_bar(session, one_request, source, fields)
    api = session.api
    with render.transfer_progress() as progress:
        task = progress.add_task(render.printable(source.name), total=source.size)
        try:
            resuming = Resuming(api, path, source, fields, on_bytes=lambda count: progress.advance(task, count))
            return resuming.send()
        except Unspoken:
            pass
        except KeyboardInterrupt:
            progress.stop()
            render.note("The same command goes on from here.")
            raise
    return send_with_bar(session, one_request, source, fields)


def _sentence(problem: Problem) -> str:
    """One line: what was wrong, which limit, what to do."""
    parts = [render.in_units(problem.detail).rstrip(". ")]
    if problem.status in {425, 429, 503} and problem.retry_after is not None and "again in" not in problem.detail:
        parts.append(f"try again in {render.span(problem.retry_after)}")
    if hint := HINTS.get(problem.code):
        parts.append(hint)
    if problem.status >= 500 and problem.request_id:
        parts.append(f"request {problem.request_id}")
    return "; ".join(parts)


def _say_wait(problem: Problem, pause: float) -> None:
    render.note(f"{problem.detail.partition(';')[0].rstrip('. ')}; trying again in {render.span(pause)}")
