"""The commands of `mediactl`. Each takes a `Session` and says what it does; everything a shell sees of failure is here.

Exit codes: 0 done, 1 the API refused (or the work failed), 2 the command can't be carried out as given, 3 nobody
answers at BASE, 130 interrupted. A failure is one line on standard error, with `--json` one JSON object; never a
traceback.
"""

import contextlib
import functools
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer
from rich.progress import Progress, TaskID

from mediactl import render
from mediactl.client import Api, Failed, Misuse, Problem, Unreachable, path_of
from mediactl.render import Column
from mediactl.transfer import Download, Source, open_source, send

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
PREVIEW_SIZES = (160, 320, 640, 1024)
VERDICT_WITHIN = 600.0
"""Seconds that `upload --wait` waits for a verdict."""


class MediaType(StrEnum):
    image = "image"
    audio = "audio"
    video = "video"
    document = "document"


class Format(StrEnum):
    txt = "txt"
    srt = "srt"
    vtt = "vtt"
    json = "json"


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


app = typer.Typer(
    name="mediactl",
    help="Upload, download, list and transcribe a tenant's media. BASE and TOKEN come from the environment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
rooms = typer.Typer(help="The files of a room.", no_args_is_help=True)
jobs = typer.Typer(help="Background work: transcriptions and scans.", no_args_is_help=True)
app.add_typer(rooms, name="rooms")
app.add_typer(jobs, name="jobs")

SHARED = "Before or after any command"
MINTING = "Minting a token"
Base = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where the API is, without /v1. Default: $BASE.", rich_help_panel=SHARED),
]
Token = Annotated[str | None, typer.Option(metavar="JWT", help="Who asks. Default: $TOKEN.", rich_help_panel=SHARED)]
Json = Annotated[bool, typer.Option("--json", help="Print the API's data, for scripts.", rich_help_panel=SHARED)]
MediaId = Annotated[str, typer.Argument(metavar="ID", help="A media id, med-…")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job id, job-…")]
Room = Annotated[str, typer.Argument(metavar="ROOM", help="A room's id.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]
All = Annotated[bool, typer.Option("--all", help="No limit.")]

P = ParamSpec("P")
T = TypeVar("T")
Command = Callable[Concatenate[Session, P], None]


def command(group: typer.Typer, name: str) -> Callable[[Command[P]], Command[P]]:
    """Registers a function as `name` of `group`, with --base, --token and --json, its failures as exit codes."""

    def register(function: Command[P]) -> Command[P]:
        @functools.wraps(function)
        def run(
            *, context: typer.Context, base: str | None, token: str | None, as_json: bool, **arguments: Any
        ) -> None:
            before: dict[str, Any] = context.find_root().params
            session = Session(
                before["base"] if base is None else base,
                before["token"] if token is None else token,
                as_json or before["as_json"],
            )
            with _failures_as_exit_codes(session.as_json):
                function(session, **arguments)  # type: ignore[call-arg]  # typer passes what the signature below names
                # Here and not at exit, where a reader that has gone would be complained about.
                sys.stdout.flush()

        own = list(inspect.signature(function).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter("context", keyword, annotation=typer.Context),
            inspect.Parameter("base", keyword, default=None, annotation=Base),
            inspect.Parameter("token", keyword, default=None, annotation=Token),
            inspect.Parameter("as_json", keyword, default=False, annotation=Json),
        ]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect.signature() reads first
            [parameter.replace(kind=keyword) for parameter in own] + shared
        )
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in own + shared}
        group.command(name)(run)
        return function

    return register


@app.callback()
def before_the_command(
    base: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the API is, without /v1.", envvar="BASE", rich_help_panel=SHARED),
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="JWT", help="Who asks.", envvar="TOKEN", rich_help_panel=SHARED)
    ] = None,
    as_json: Json = False,
) -> None:
    """What every command takes; each reads it from the root's parameters."""


@contextlib.contextmanager
def _failures_as_exit_codes(as_json: bool, argument: str | None = None) -> Iterator[None]:
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


def _each(session: Session, arguments: Sequence[T], act: Callable[[T], None]) -> None:
    """`act` on every argument, whatever is wrong with another; exit code 1 at the end if something was.

    Only where nobody answers, or somebody interrupts, there is no point in going on.
    """
    if len(arguments) == 1:
        act(arguments[0])
        return
    failed = False
    for argument in arguments:
        try:
            with _failures_as_exit_codes(session.as_json, str(argument)):
                act(argument)
        except typer.Exit as ended:
            if ended.exit_code in {3, 130}:
                raise
            failed = True
    if failed:
        raise typer.Exit(1)


def _room_id(text: str) -> str:
    """`text` if the API can have a room of that name. Raises Misuse; the rule is that of its paths."""
    # `.` and `..` would be resolved away before the request leaves.
    if not 0 < len(text) <= 255 or not text.isprintable() or "/" in text or text in {".", ".."}:
        raise Misuse(f"{text!r} is no room id: one has 1-255 printable characters and no /")
    return text


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


# --- token -----------------------------------------------------------------------------------------------------------


@command(app, "token")
def token(
    session: Session,
    signing_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private keys: .run/TENANT/signing-keys.json.", rich_help_panel=MINTING),
    ] = None,
    sub: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whom the token names.", rich_help_panel=MINTING)
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="media:read, media:write, transcribe, admin; repeatable. Default: all but admin.",
            rich_help_panel=MINTING,
        ),
    ] = None,
    room: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROOM", help="A room whose files it may see, '*' for all; repeatable.", rich_help_panel=MINTING
        ),
    ] = None,
    lifetime: Annotated[
        str, typer.Option(metavar="TIME", help="Such as 30s, 15m, 12h, 7d.", rich_help_panel=MINTING)
    ] = "12h",
    tenant: Annotated[
        str | None, typer.Option(metavar="ID", help="Default: the key's folder name.", rich_help_panel=MINTING)
    ] = None,
) -> None:
    """Say what TOKEN says of itself, or mint one.

    export TOKEN=$(mediactl token --signing-key .run/acme/signing-keys.json --sub alice --room '*')
    """
    # PyJWT brings cryptography, which takes longer to import than most commands take to run.
    from mediactl import tokens

    if signing_key is not None:
        if not sub:
            raise Misuse("a token names somebody; say whom with --sub")
        scopes = [word for entry in scope or tokens.DEFAULT_SCOPES for word in entry.replace(",", " ").split()]
        if unknown := sorted(set(scopes) - set(tokens.SCOPES)):
            raise Misuse(f"no such scope: {', '.join(unknown)}; there are {', '.join(tokens.SCOPES)}")
        minted = tokens.mint(
            signing_key,
            subject=sub,
            tenant=tenant,
            scopes=scopes,
            rooms=[_room_id(one) for one in room or []],
            seconds=tokens.lifetime(lifetime),
        )
        if session.as_json:
            render.data({"token": minted, "claims": tokens.claims_of(minted)})
        else:
            print(minted)
        return
    if sub or scope or room or tenant:
        raise Misuse("minting a token needs the key that signs it: --signing-key .run/TENANT/signing-keys.json")
    if not session.token:
        raise Misuse(f"TOKEN is not set: {HOW_TO_SIGN_IN}")
    claims = tokens.claims_of(session.token.strip())
    if session.as_json:
        render.data(claims)
        return
    expiry = tokens.expiry_of(claims)
    room_ids = claims.get("rooms") or []
    render.fields(
        {
            "subject": claims.get("sub", "nobody"),
            "tenant": claims.get("aud", "none"),
            "issuer": claims.get("iss"),
            "scopes": claims.get("scope") or "none",
            "rooms": "all" if "*" in room_ids else ", ".join(map(str, room_ids)) or "none",
            "expires": "never" if expiry is None else render.expiry(expiry),
        }
    )
    if expiry is not None and expiry.timestamp() < time.time():
        render.note("This token has expired: the API will answer 401.")
    render.note("This is what the token says of itself; nobody has verified it.")


# --- files -----------------------------------------------------------------------------------------------------------


@command(app, "upload")
def upload(
    session: Session,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files; - reads standard input.")],
    room: Annotated[str | None, typer.Option(help="Attach them to this room.")] = None,
    tenant_scope: Annotated[bool, typer.Option("--tenant-scope", help="Let everybody of the tenant see them.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the scanner's verdict.")] = False,
    name: Annotated[str | None, typer.Option(help="File name to give it (one file only).")] = None,
) -> None:
    """Upload files.

    Prints a line for each: media id, scan status, size, type, name.
    """
    if name and len(files) > 1:
        raise Misuse("--name is for one file; these are several")
    fields = {"tenant_scope": "true"} if tenant_scope else {}
    if room is not None:
        fields["room_id"] = _room_id(room)

    def one(path: Path) -> None:
        with open_source(path, name) as source:
            item = _send_with_bar(session, path_of("media", "upload"), source, fields)
            if wait:
                item = _await_verdict(session, item)
            if session.as_json:
                render.data(item)
            else:
                render.line(
                    item["media_id"], item["scan_status"], render.size(item["size"]), item["mime_type"], source.name
                )
        if wait and item["scan_status"] != "clean":
            raise typer.Exit(1)

    _each(session, files, one)


def _send_with_bar(session: Session, path: str, source: Source, fields: dict[str, str]) -> dict[str, Any]:
    api = session.api
    with render.transfer_progress() as progress:
        task = progress.add_task(render.printable(source.name), total=source.size)
        return send(api, path, source, fields, on_bytes=lambda count: progress.advance(task, count))


def _await_verdict(session: Session, item: dict[str, Any]) -> dict[str, Any]:
    """The item once its verdict is there; infected content answers 404 from that moment on."""
    ends = time.monotonic() + VERDICT_WITHIN
    pause = 0.2
    with render.err.status("waiting for the verdict") if render.err.is_terminal else contextlib.nullcontext():
        # `error` is no verdict either: the scan is tried again.
        while item["scan_status"] in {"pending", "error"}:
            if time.monotonic() > ends:
                raise Failed(f"no verdict on {item['media_id']} after {render.span(VERDICT_WITHIN)}; is a scanner up?")
            time.sleep(pause)
            pause = min(pause * 1.5, 3.0)
            try:
                item = session.api.get("media", item["media_id"], "info")
            except Problem as problem:
                if problem.status != 404:
                    raise
                item = {**item, "scan_status": "infected"}
    return item


@command(app, "download")
def download(
    session: Session,
    media_id: MediaId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File or folder; - is standard output.")] = None,
    thumbnail: Annotated[bool, typer.Option("--thumbnail", help="Its preview instead.")] = False,
    size: Annotated[int | None, typer.Option(help="Longest side of the preview: 160, 320, 640, 1024.")] = None,
) -> None:
    """Download a file under its own name and check its sha256.

    Run again after a break, it goes on where it stopped.
    """
    if size is not None and not thumbnail:
        raise Misuse("--size is for --thumbnail")
    if size is not None and size not in PREVIEW_SIZES:
        raise Misuse(f"--size {size}: there are {', '.join(map(str, PREVIEW_SIZES))}")
    segments = ("media", "download", media_id, *(["thumbnail"] if thumbnail else []))
    jpeg = output is not None and output.suffix.lower() in {".jpg", ".jpeg"}
    request: dict[str, Any] = {
        "params": {"size": size} if size is not None else {},
        "headers": {"Accept": "image/jpeg"} if thumbnail and jpeg else {},
    }
    with render.transfer_progress() as progress:
        task = progress.add_task(render.printable(output.name if output else media_id), total=None)

        def show(position: int, total: int | None) -> None:
            progress.update(task, completed=position, total=total)

        transfer = Download(session.api, path_of(*segments), show, **request)
        try:
            if output is not None and str(output) == "-":
                transfer.to_stream(sys.stdout.buffer)
                return
            path, count, outcome = transfer.to_file(output, f"{media_id}.webp" if thumbnail else media_id)
        except KeyboardInterrupt:
            progress.stop()
            render.note("The same command goes on from here.")
            raise
    if session.as_json:
        render.data({"path": str(path), "size": count, "outcome": outcome})
    else:
        render.line(path, render.size(count), outcome)


@command(app, "info")
def info(session: Session, media_id: MediaId) -> None:
    """Everything the platform says of one file."""
    item = session.api.get("media", media_id, "info")
    if session.as_json:
        render.data(item)
        return
    width, height, duration = item.get("width"), item.get("height"), item.get("duration")
    render.fields(
        {
            "id": item["media_id"],
            "name": item.get("filename"),
            "size": render.size(item["size"]) + (f" ({item['size']:,} bytes)" if item["size"] >= 1000 else ""),
            "type": item["mime_type"],
            "pixels": f"{width} x {height}" if width and height else None,
            "duration": render.clock(duration) if duration else None,
            "scan": item["scan_status"],
            "thumbnail": item.get("thumbnail_id"),
            "uploaded": f"{render.when(item.get('created_at'))} by {item.get('uploaded_by')}",
            "seen by": "everybody of the tenant" if item.get("tenant_scope") else None,
            "rooms": ", ".join(item.get("rooms") or []) or None,
            "sha256": item["sha256"],
        }
    )


@command(app, "rm")
def rm(session: Session, media_ids: Annotated[list[str], typer.Argument(metavar="ID", help="Media ids.")]) -> None:
    """Delete files for good, for everybody."""

    def one(media_id: str) -> None:
        session.api.call("DELETE", path_of("media", media_id))
        if session.as_json:
            render.data({"media_id": media_id, "deleted": True})
        else:
            render.line("deleted", media_id)

    _each(session, media_ids, one)


@command(app, "url")
def url(
    session: Session,
    media_id: MediaId,
    thumbnail: Annotated[bool, typer.Option("--thumbnail", help="Of its preview.")] = False,
) -> None:
    """A URL that needs no token, for the next five minutes."""
    signed = session.api.get("media", "signed", media_id, thumbnail="true" if thumbnail else None)
    if session.as_json:
        render.data(signed)
        return
    print(render.printable(signed["url"]))
    render.note(f"Valid until {render.when(signed['expires_at'])} for anybody who has it.")


@command(app, "rescan")
def rescan(
    session: Session,
    media_id: MediaId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the scanner's verdict.")] = False,
) -> None:
    """Scan a file again (admins only).

    With --wait anything but clean is a failure.
    """
    job = session.api.call("POST", path_of("media", media_id, "rescan"))
    if wait:
        job = _follow(session, job["job_id"], None)
        if job.get("scan_status") != "clean":
            raise typer.Exit(1)
    elif session.as_json:
        render.data(job)
    else:
        render.line(job["job_id"], job["status"])


# --- rooms -----------------------------------------------------------------------------------------------------------


@command(rooms, "ls")
@command(app, "ls")
def ls(
    session: Session,
    room: Annotated[str | None, typer.Argument(metavar="ROOM", help="A room's id.")] = None,
    type_: Annotated[MediaType | None, typer.Option("--type", help="Only these.")] = None,
    limit: Limit = 50,
    everything: All = False,
) -> None:
    """The files of a room, newest first.

    The API lists files by room only: one uploaded without a room is found only by its id, which `upload` printed.
    """
    if room is None:
        raise Misuse("give a room; a file uploaded without one is found only by its id, which `upload` printed")
    found, more = _listed(session, "rooms", _room_id(room), "files", limit=0 if everything else limit, type=type_)
    if session.as_json:
        render.data(found)
        return
    columns = [
        Column("NAME", shrinks=True),
        Column("SIZE", right=True),
        Column("TYPE", shrinks=True, optional=True),
        Column("SCAN"),
        Column("ADDED"),
        Column("BY", shrinks=True, optional=True),
        Column("ID"),
    ]
    render.table(
        columns,
        [
            [
                item.get("filename"),
                render.size(item["size"]),
                item["mime_type"],
                item["scan_status"],
                render.when_short(item.get("added_at")),
                item.get("added_by"),
                item["media_id"],
            ]
            for item in found
        ],
    )
    if not found:
        render.note(f"Nothing in {room} that this token may see.")
    elif more:
        render.note(f"These are the newest {len(found)}; --all shows all.")


def _listed(session: Session, *segments: str, limit: int, **params: Any) -> tuple[list[dict[str, Any]], bool]:
    pages = list(session.api.pages(*segments, limit=limit, **params))
    return [item for items, _ in pages for item in items], pages[-1][1]


@command(rooms, "attach")
def attach(session: Session, room: Room, media_id: MediaId) -> None:
    """Put a file that is uploaded already into a room."""
    item = session.api.call("POST", path_of("rooms", _room_id(room), "files"), json={"media_id": media_id})
    if session.as_json:
        render.data(item)
    else:
        render.line("attached", media_id, room)


@command(rooms, "detach")
def detach(session: Session, room: Room, media_id: MediaId) -> None:
    """Take a file out of a room; the file itself stays."""
    session.api.call("DELETE", path_of("rooms", _room_id(room), "files", media_id))
    if session.as_json:
        render.data({"media_id": media_id, "room_id": room, "detached": True})
    else:
        render.line("detached", media_id, room)


# --- transcription and jobs ------------------------------------------------------------------------------------------


@command(app, "transcribe")
def transcribe(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="FILE|ID", help="A recording here, or a media id; - reads stdin.")],
    language: Annotated[str | None, typer.Option(help="Spoken language, such as en. Default: detected.")] = None,
    translate: Annotated[bool, typer.Option("--translate", help="Into English.")] = False,
    words: Annotated[bool, typer.Option("--words", help="A time for every word.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Words of context: names, spellings.")] = None,
    hotwords: Annotated[str | None, typer.Option(help="Words to expect.")] = None,
    vad: Annotated[bool, typer.Option("--vad/--no-vad", help="Skip where nobody speaks.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to the end.")] = False,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Print the result as this; implies --wait.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="File name to give it.")] = None,
) -> None:
    """Transcribe a recording.

    With --wait it shows the text as it comes; Ctrl-C leaves the job running.
    """
    options = {
        "language": language,
        "task": "translate" if translate else None,
        "word_timestamps": "true" if words else None,
        "prompt": prompt,
        "hotwords": hotwords,
        "vad": None if vad else "false",
    }
    fields = {key: value for key, value in options.items() if value is not None}
    if re.fullmatch(r"med-[0-9A-Za-z-]+", what) and not Path(what).exists():
        form = {key: (None, value) for key, value in {**fields, "media_id": what}.items()}
        job = session.api.call("POST", path_of("transcribe"), files=form)
    else:
        with open_source(Path(what), name) as source:
            job = _send_with_bar(session, path_of("transcribe"), source, fields)
    if wait or format_ is not None:
        _follow(session, job["job_id"], format_)
    elif session.as_json:
        render.data(job)
    else:
        render.line(job["job_id"], job["status"])
        render.note(f"`mediactl jobs get {job['job_id']} --wait` follows it.")


@command(jobs, "get")
def get_job(
    session: Session,
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to the end.")] = False,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Print the result as this; implies --wait.")
    ] = None,
) -> None:
    """A job's state, and its transcript when there is one."""
    if wait or format_ is not None:
        _follow(session, job_id, format_)
        return
    job = session.api.get("jobs", job_id)
    if session.as_json:
        render.data(job)
        return
    render.fields(
        {
            "id": job["job_id"],
            "kind": job.get("kind"),
            "status": job["status"],
            "progress": f"{job['progress']:.0%}" if job["status"] == "running" else None,
            "in line": job.get("queue_position") if job["status"] == "queued" else None,
            "created": render.when(job.get("created_at")),
            "finished": render.when(job["finished_at"]) if job.get("finished_at") else None,
            "waits for": job.get("waits_for"),
            "error": _job_error(job),
            "verdict": job.get("scan_status"),
            "language": job.get("language"),
            "duration": render.clock(job["duration"]) if job.get("duration") else None,
        }
    )
    if job["status"] == "completed" and job.get("kind") == "transcribe":
        _print_text(job)


@command(jobs, "ls")
def list_jobs(session: Session, limit: Limit = 50, everything: All = False) -> None:
    """Your own jobs, newest first."""
    found, more = _listed(session, "jobs", limit=0 if everything else limit)
    if session.as_json:
        render.data(found)
        return
    columns = [
        Column("ID"),
        Column("KIND", optional=True),
        Column("STATUS"),
        Column("DONE", right=True),
        Column("CREATED"),
    ]
    render.table(
        [*columns, Column("ERROR", shrinks=True)],
        [
            [
                job["job_id"],
                job.get("kind"),
                job["status"],
                f"{job.get('progress') or 0:.0%}",
                render.when_short(job.get("created_at")),
                _job_error(job) or "",
            ]
            for job in found
        ],
    )
    if not found:
        render.note("No jobs of yours.")
    elif more:
        render.note(f"These are the newest {len(found)}; --all shows all.")


@command(jobs, "cancel")
def cancel(session: Session, job_id: JobId) -> None:
    """Stop a job at its next segment."""
    job = session.api.call("DELETE", path_of("jobs", job_id))
    if session.as_json:
        render.data(job)
    else:
        render.line(job_id, (job or {}).get("status", "cancelled"))


def _follow(session: Session, job_id: str, format_: Format | None) -> dict[str, Any]:
    """Show a job until it ends, then its result: live lines on a terminal, else the transcript or verdict alone."""
    live = render.out.is_terminal and format_ is None and not session.as_json
    shown = 0
    job: dict[str, Any] = {}
    # On one terminal, the bar and the text above it must be drawn by the same hand.
    with render.job_progress(render.out if live else render.err) as progress:
        task = progress.add_task("queued", total=1.0)
        try:
            for update in session.api.follow(job_id):
                if "text" in update:
                    if live and update.get("id", shown) == shown:
                        render.spoken(progress.console, update)
                        shown += 1
                elif "status" in update:
                    job = update
                    _show_state(progress, task, job)
        except KeyboardInterrupt:
            progress.stop()
            render.failure(
                f"{job_id} goes on without you; `mediactl jobs get {job_id} --wait` follows it again, "
                f"`mediactl jobs cancel {job_id}` stops it"
            )
            raise typer.Exit(130) from None
    if job["status"] != "completed":
        if session.as_json:
            render.data(job)
            raise typer.Exit(1)
        raise Failed(f"{job_id} {job['status']}" + (f": {_job_error(job)}" if job.get("error") else ""))
    if format_ is not None:
        with session.api.open("GET", path_of("jobs", job_id, f"transcript.{format_}")) as response:
            text = response.read().decode()
        if text.strip():
            sys.stdout.write(text)
        if not job.get("transcript"):
            _say_silence()
    elif session.as_json:
        render.data(job)
    elif job.get("kind", "transcribe") != "transcribe":
        render.line(job_id, job.get("scan_status") or job["status"])
    elif live and job.get("transcript"):
        for segment in job.get("segments", [])[shown:]:
            render.spoken(render.out, segment)
        words = [job.get("language"), render.clock(job["duration"]) if job.get("duration") else None, job_id]
        render.note(" · ".join(word for word in words if word))
    else:
        _print_text(job)
    return job


def _print_text(job: dict[str, Any]) -> None:
    if text := _paragraph(job.get("transcript", "")):
        print(text)
    else:
        _say_silence()


def _say_silence() -> None:
    """On standard error even of a script: else an empty answer looks like one that got lost."""
    render.err.print("no speech was heard")


def _show_state(progress: Progress, task: TaskID, job: dict[str, Any]) -> None:
    words = job["status"]
    if words == "queued" and job.get("queue_position"):
        words = f"queued, number {job['queue_position']}"
    if job.get("waits_for"):
        words = f"waits for {job['waits_for']}"
    progress.update(task, description=words, completed=job.get("progress") or 0.0)


def _paragraph(text: str) -> str:
    return "\n".join(render.printable(line) for line in text.strip().splitlines())


def _job_error(job: dict[str, Any]) -> str | None:
    error = job.get("error")
    if isinstance(error, dict):
        return str(error.get("detail") or error.get("code"))
    return str(error) if error else None


# --- usage -----------------------------------------------------------------------------------------------------------


@command(app, "usage")
def usage(session: Session) -> None:
    """What the tenant stores, and how much of its limits is left."""
    facts = session.api.get("usage")
    if session.as_json:
        render.data(facts)
        return
    limits, stored, reserved = facts["limits"], facts["stored_bytes"], facts["reserved_bytes"]
    quota = limits["max_storage_mb"] * 1024 * 1024
    words = f"{render.size(stored)} of {render.size(quota)}"
    if reserved:
        words += f", {render.size(reserved)} reserved by uploads under way"
    render.gauge("storage", stored + reserved, quota, words)
    saved = facts["dedupe_saved_bytes"]
    render.fields(
        {
            "files": f"{facts['files']:,}, of {facts['objects']:,} distinct contents",
            "saved": f"{render.size(saved)} by storing the same bytes once" if saved else None,
            "one upload": f"up to {render.size(limits['max_upload_mb'] * 1024 * 1024)}",
            "transcription": f"up to {render.span(limits['max_transcription_minutes_per_day'] * 60)} of audio a day",
        }
    )
