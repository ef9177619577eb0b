"""The session of a command: address, token, and how failures are shown.

Exit codes: 0 done, 1 the API refused or the work failed, 2 the command cannot be carried out as given, 3 nothing
answers at BASE, 130 interrupted. A failure is one line on standard error, with `--json` one JSON object; never a
traceback.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import typer

from mediactl.client import Client
from mediactl.errors import Failed, MediaError, Misuse, Problem, Unreachable
from mediactl.models import Page
from mediactl.program import render
from mediactl.sending import OnBytes, Source, open_source

HOW_TO_SIGN_IN = (
    "`source .run/env` after `make run`, or mint one: "
    "export TOKEN=$(mediactl token --signing-key .run/TENANT/signing-keys.json --sub NAME --room ROOM)"
)
_MAKE_ROOM = (
    "`mediactl usage` shows what is stored; `mediactl rm ID` makes room; `mediactl ls --sort {}` names the ids "
    "of what you uploaded"
)
HINTS = {
    "unauthorized": HOW_TO_SIGN_IN,
    "quota_exceeded": _MAKE_ROOM.format("-size"),
    "file_quota_exceeded": _MAKE_ROOM.format("created"),
    "scan_pending": "`mediactl info ID` shows the verdict once there is one",
    "insufficient_scope": "`mediactl token` shows what the token allows",
}
IDS = {"media_id": ("med-", "file", "`mediactl ls`"), "job_id": ("job-", "job", "`mediactl jobs ls`")}
"""For each argument that is an id: how the id begins, what it names, and which command shows it."""
T = TypeVar("T")


@dataclass
class Session:
    """What every command has: the API's address, the token, and whether to print JSON."""

    base: str | None
    token: str | None
    as_json: bool

    @functools.cached_property
    def client(self) -> Client:
        if not self.base:
            raise Misuse("BASE is not set: `source .run/env` after `make run`, or give --base http://HOST:PORT")
        if not self.token:
            raise Misuse(f"TOKEN is not set: {HOW_TO_SIGN_IN}")
        return Client(self.base, self.token.strip(), on_wait=self.say_wait)

    def say_wait(self, why: MediaError, pause: float) -> None:
        again = f"{why.detail.partition(';')[0].rstrip('. ')}; trying again in {render.span(pause)}"
        if isinstance(why, Unreachable) and not self.as_json:
            render.failure(again)
        else:
            render.note(again)


@contextlib.contextmanager
def failures_as_exit_codes(as_json: bool, argument: str | None = None) -> Iterator[None]:
    """Prints a failure in one line and raises its exit code. `argument`: the one of several that failed."""

    def fail(exit_code: int, sentence: str, /, **facts: object) -> typer.Exit:
        if as_json:
            facts = facts if argument is None else {"argument": argument, **facts}
            render.print_json({"detail": sentence, **facts}, sys.stderr)
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
        hint = "start it with `make run`, or set BASE to its address" if "nothing answers" in str(error) else ""
        raise fail(3, f"{error}; {hint}" if hint else str(error)) from None
    except BrokenPipeError:
        # The reader has ended (`mediactl ls ROOM | head`). Python must not report it again at exit.
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


@contextlib.contextmanager
def in_room(room: str | None) -> Iterator[None]:
    """Says of a 404 that the token may be the reason: a room that it does not name is one that is not there."""
    try:
        yield
    except Problem as problem:
        if room is not None and problem.code == "not_found":
            problem.add_note(f"does your token name the room {room}? `mediactl token` shows its rooms")
        raise


@contextlib.contextmanager
def about(**arguments: object) -> Iterator[None]:
    """Says of a 404 that the argument that should be an id is something else, such as a file's name."""
    try:
        yield
    except Problem as problem:
        for name, (begin, what, shown_by) in IDS.items():
            given = arguments.get(name)
            if problem.code == "not_found" and isinstance(given, str) and not given.startswith(begin):
                problem.add_note(f"{given} is no {what}'s id, which looks like {begin}…; {shown_by} shows them")
        raise


def each(session: Session, arguments: Sequence[T], act: Callable[[T], None]) -> None:
    """Calls `act` on every argument, even if one fails. Then the exit code is 1.

    It stops early only if nothing answers or the command is interrupted.
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


@contextlib.contextmanager
def source_of(path: Path, name: str | None) -> Iterator[Source]:
    """The file at `path`, or standard input for `-`. Raises Misuse if there is nothing to send."""
    if str(path) != "-":
        with open_source(path, name) as source:
            yield source
        return
    if not name:
        raise Misuse("standard input has no file name; give one with --name")
    if sys.stdin.isatty():
        raise Misuse("nothing is piped into standard input")
    yield Source(sys.stdin.buffer, name, None)


def all_of(pages: Iterator[Page[T]]) -> tuple[list[T], bool]:
    """The items of all pages, and whether the API has more."""
    found: list[T] = []
    more = False
    for page in pages:
        found += page["data"]
        more = page["next_cursor"] is not None
    return found, more


def with_bar(source: Source, send: Callable[[OnBytes], T]) -> T:
    """`send`'s result; a progress bar shows how far it is."""
    with render.transfer_progress() as progress:
        task = progress.add_task(render.printable(source.name), total=source.size)
        return send(lambda count: progress.advance(task, count))


def under_way() -> Path | None:
    """The folder that remembers which uploads are under way. None: there is no home for it."""
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(state) if state else Path.home() / ".local" / "state") / "mediactl" / "uploads"
    except RuntimeError:  # a container's user may have no name and no home
        return None


def _sentence(problem: Problem) -> str:
    """One line: what is wrong, which limit, what to do.

    Of a body that the API refused, only what is wrong is said: who gave an argument has never seen the body.
    """
    wrong = problem.facts.get("errors")
    detail = problem.detail
    if isinstance(wrong, list) and wrong and detail.startswith("The body must be "):
        detail = ". ".join(f"{each['where']}: {each['what']}" for each in wrong)
    parts = [render.in_units(detail).rstrip(". ")]
    if problem.status in {425, 429, 503} and problem.retry_after is not None and "again in" not in problem.detail:
        parts.append(f"try again in {render.span(problem.retry_after)}")
    if hint := HINTS.get(problem.code):
        parts.append(hint)
    parts += getattr(problem, "__notes__", ())
    if problem.status >= 500 and problem.request_id:
        parts.append(f"request {problem.request_id}")
    return "; ".join(parts)
