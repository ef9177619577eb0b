"""Commands for background work: `transcribe`, and `jobs` with `get`, `ls`, `cancel`."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from mediactl.errors import Misuse
from mediactl.exchange import is_media_id, known_room
from mediactl.program import render
from mediactl.program.command import All, JobId, Limit, app, command, jobs, labels_of
from mediactl.program.following import Format, follow, job_error, print_text
from mediactl.program.render import Column
from mediactl.program.session import Session, all_of, in_room, source_of, with_bar

COLUMNS = (
    Column("ID"),
    Column("KIND"),
    Column("STATUS"),
    Column("DONE", right=True, optional=1),
    Column("CREATED", optional=2),
    Column("ERROR", shrinks=True),
    Column("FILE", optional=3),
)
CUES = "Cues of --format srt and vtt"
STORED = "How a local recording is stored"


@command(app, "transcribe")
def transcribe(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="FILE|ID", help="A local recording or a media id; - reads stdin.")],
    language: Annotated[str | None, typer.Option(help="Spoken language, such as en. Default: detected.")] = None,
    translate: Annotated[bool, typer.Option("--translate", help="Translate into English.")] = False,
    words: Annotated[bool, typer.Option("--words", help="Give a time for every word.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Context for the model: names, spellings.")] = None,
    hotwords: Annotated[str | None, typer.Option(help="Words to expect.")] = None,
    vad: Annotated[bool, typer.Option("--vad/--no-vad", help="Skip parts without speech.")] = True,
    track: Annotated[int | None, typer.Option(help="Sound track, from 1. Default: the first that speaks.")] = None,
    channel: Annotated[int | None, typer.Option(help="Channel, from 1. Default: all, mixed.")] = None,
    split_channels: Annotated[bool, typer.Option("--split-channels", help="Each channel is one speaker.")] = False,
    multilingual: Annotated[
        bool, typer.Option("--multilingual", help="The language changes: find it for each segment.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Print the result in this format; implies --wait.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Store it under this file name.", rich_help_panel=STORED)] = None,
    room: Annotated[str | None, typer.Option(help="Add it to this room.", rich_help_panel=STORED)] = None,
    tenant_scope: Annotated[
        bool, typer.Option("--tenant-scope", help="Let everybody of the tenant see it.", rich_help_panel=STORED)
    ] = False,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label it; repeatable.", rich_help_panel=STORED)
    ] = None,
) -> None:
    """Transcribe a recording.

    With --wait the text is shown as it comes. Ctrl-C leaves the job running.
    """
    call = functools.partial(
        session.client.transcribe,
        language=language,
        translate=translate,
        word_timestamps=words,
        prompt=prompt,
        hotwords=hotwords,
        vad=vad,
        track=track,
        channel=channel,
        split_channels=split_channels,
        multilingual=multilingual,
    )
    if is_media_id(what) and not Path(what).exists():
        if name is not None or room is not None or tenant_scope or label:
            raise Misuse(
                f"{what} is stored already: --name, --room, --tenant-scope and --label are for a local recording"
            )
        job = call(media_id=what)
    else:
        call = functools.partial(
            call,
            room_id=None if room is None else known_room(room),
            tenant_scope=tenant_scope,
            labels=labels_of(label),
        )
        with source_of(Path(what), name) as source, in_room(room):
            job = with_bar(source, lambda on_bytes: call(source, on_bytes=on_bytes))
    if wait or format_ is not None:
        follow(session, job["job_id"], format_)
    elif session.as_json:
        render.data(job)
    else:
        render.line(job["job_id"], job["status"])
        render.note(f"`mediactl jobs get {job['job_id']} --wait` follows it.")


@command(jobs, "get")
def get_job(
    session: Session,
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Print the result in this format; implies --wait.")
    ] = None,
    max_chars: Annotated[int | None, typer.Option(help="Most columns of a line.", rich_help_panel=CUES)] = None,
    max_lines: Annotated[int | None, typer.Option(help="Most lines of a cue.", rich_help_panel=CUES)] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Most seconds of a cue.", rich_help_panel=CUES)] = None,
    word_highlights: Annotated[
        bool,
        typer.Option("--word-highlights", help="Each word has its time (vtt, after --words).", rich_help_panel=CUES),
    ] = False,
) -> None:
    """Show a job's state, and its transcript if there is one."""
    shape = {"max_chars": max_chars, "max_lines": max_lines, "max_seconds": max_seconds}
    if (any(shape.values()) or word_highlights) and format_ not in {Format.srt, Format.vtt}:
        raise Misuse("the shape of cues is for --format srt or vtt")
    if wait or format_ is not None:
        follow(session, job_id, format_, **shape, word_highlights=word_highlights)
        return
    job = session.client.job(job_id)
    if session.as_json:
        render.data(job)
        return
    render.fields(
        {
            "id": job["job_id"],
            "kind": job.get("kind"),
            "file": job.get("media_id"),
            "status": job["status"],
            "progress": f"{job['progress']:.0%}" if job["status"] == "running" else None,
            "in line": job.get("queue_position") if job["status"] == "queued" else None,
            "created": render.when(job.get("created_at")),
            "finished": render.when(job["finished_at"]) if job.get("finished_at") else None,
            "waits for": job.get("waits_for"),
            "error": job_error(job),
            "verdict": job.get("scan_status"),
            "language": job.get("language"),
            "duration": render.clock(job["duration"]) if job.get("duration") else None,
        }
    )
    if job["status"] == "completed" and job.get("kind") == "transcribe":
        print_text(job)


@command(jobs, "ls")
def list_jobs(
    session: Session,
    kind: Annotated[str | None, typer.Option(help="Only this kind: scan, transcribe.")] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(help="Only with this status: queued, running, completed, failed, cancelled; repeatable."),
    ] = None,
    limit: Limit = 50,
    everything: All = False,
) -> None:
    """List your own jobs, newest first."""
    found, more = all_of(session.client.jobs(kind=kind, status=status, limit=None if everything else limit))
    if session.as_json:
        render.data(found)
        return
    render.table(
        COLUMNS,
        [
            [
                job["job_id"],
                job.get("kind"),
                job["status"],
                f"{job.get('progress') or 0:.0%}",
                render.when_short(job.get("created_at")),
                job_error(job) or "",
                job.get("media_id"),
            ]
            for job in found
        ],
    )
    if not found:
        render.note("You have no such jobs." if kind or status else "You have no jobs.")
    elif more:
        render.note(f"These are the newest {len(found)}; --all shows all.")


@command(jobs, "cancel")
def cancel(session: Session, job_id: JobId) -> None:
    """Stop a job at its next segment."""
    job = session.client.cancel(job_id)
    if session.as_json:
        render.data(job)
    else:
        render.line(job_id, job["status"])
