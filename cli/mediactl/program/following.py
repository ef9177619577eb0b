"""Follows a job to its end and shows its progress."""

import sys
from enum import StrEnum
from typing import Any, cast

import typer
from rich.progress import Progress, TaskID

from mediactl.errors import Failed
from mediactl.models import Job, Segment
from mediactl.program import render
from mediactl.program.session import Session


class Format(StrEnum):
    txt = "txt"
    srt = "srt"
    vtt = "vtt"
    json = "json"


def follow(session: Session, job_id: str, format_: Format | None, **shape: Any) -> Job:
    """Shows a job until it ends, then its result: on a terminal lines as they come, else only transcript or verdict.
    `shape`: of subtitles, as `Client.transcript` has it.

    Returns the job. Raises Failed if it did not complete.
    """
    live = render.out.is_terminal and format_ is None and not session.as_json
    shown = 0
    job: Any = None
    # On a terminal one console has to draw both the bar and the text above it.
    with render.job_progress(render.out if live else render.err) as progress:
        task = progress.add_task("queued", total=1.0)
        try:
            for update in session.client.follow(job_id):
                if "text" in update:
                    if live and update.get("id", shown) == shown:
                        render.spoken(progress.console, cast("Segment", update))
                        shown += 1
                elif "status" in update:
                    job = update
                    _show_state(progress, task, job)
        except KeyboardInterrupt:
            progress.stop()
            render.failure(
                f"{job_id} goes on running; `mediactl jobs get {job_id} --wait` follows it again, "
                f"`mediactl jobs cancel {job_id}` stops it"
            )
            raise typer.Exit(130) from None
    if job["status"] != "completed":
        if session.as_json:
            render.data(job)
            raise typer.Exit(1)
        raise Failed(f"{job_id} {job['status']}" + (f": {job_error(job)}" if job.get("error") else ""))
    if format_ is not None:
        text = session.client.transcript(job_id, format_.value, **shape)
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
        print_text(job)
    ended: Job = job
    return ended


def print_text(job: Job) -> None:
    if text := _paragraph(job.get("transcript", "")):
        print(text)
    else:
        _say_silence()


def _say_silence() -> None:
    """On standard error, also for scripts: otherwise an empty transcript looks like a lost one."""
    render.err.print("no speech was heard")


def _show_state(progress: Progress, task: TaskID, job: Job) -> None:
    words: str = job["status"]
    if words == "queued" and job.get("queue_position"):
        words = f"queued, number {job['queue_position']}"
    if job.get("waits_for"):
        words = f"waits for {job['waits_for']}"
    progress.update(task, description=words, completed=job.get("progress") or 0.0)


def _paragraph(text: str) -> str:
    return "\n".join(render.printable(line) for line in text.strip().splitlines())


def job_error(job: Job) -> str | None:
    error = job["error"]
    return None if error is None else error["detail"] or error["code"]
