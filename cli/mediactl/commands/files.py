"""One file, or several: `upload`, `download`, `info`, `rm`, `url`, `sign`, `rescan`."""

import contextlib
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mediactl import render
from mediactl.client import Failed, Misuse, Problem, path_of, room_id
from mediactl.command import MediaId, app, command
from mediactl.following import follow
from mediactl.session import Session, each, upload_with_bar
from mediactl.transfer import Download, open_source

MOST_SIGNED = 200
"""Of one request."""
PREVIEW_SIZES = (160, 320, 640, 1024)
VERDICT_WITHIN = 600.0
"""Seconds that `upload --wait` waits for a verdict."""


class Via(StrEnum):
    store = "store"
    api = "api"


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

    Prints a line for each: media id, scan status, size, type, name. Run again after a break, it goes on with a large
    file where it stopped.
    """
    if name and len(files) > 1:
        raise Misuse("--name is for one file; these are several")
    fields = {"tenant_scope": "true"} if tenant_scope else {}
    if room is not None:
        fields["room_id"] = room_id(room)

    def one(path: Path) -> None:
        with open_source(path, name) as source:
            item = upload_with_bar(session, path, source, fields)
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

    each(session, files, one)


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
            "labels": ", ".join(f"{key}={value}" for key, value in (item.get("labels") or {}).items()) or None,
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

    each(session, media_ids, one)


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


@command(app, "sign")
def sign(
    session: Session,
    media_ids: Annotated[list[str], typer.Argument(metavar="ID", help="Media ids.")],
    thumbnail: Annotated[bool, typer.Option("--thumbnail", help="Of their previews.")] = False,
    seconds: Annotated[int | None, typer.Option(min=1, help="How long they are valid. Default: five minutes.")] = None,
    via: Annotated[Via, typer.Option(help="api: URLs that end early with the file or its verdict.")] = Via.store,
) -> None:
    """URLs of several files that need no token.

    Prints a line for each: media id, URL. One without a URL is a complaint, and the exit code 1.
    """
    wanted = {"thumbnail": thumbnail, "expires_in": seconds, "via": via}
    answers: dict[str, dict[str, Any]] = {}
    for start in range(0, len(media_ids), MOST_SIGNED):
        ids = media_ids[start : start + MOST_SIGNED]
        signed = session.api.call("POST", path_of("media", "sign"), json={"media_ids": ids, **wanted})
        answers |= {answer["media_id"]: answer for answer in signed}

    def one(media_id: str) -> None:
        answer = answers[media_id]
        if answer["url"] is None:
            raise Failed(answer["error"]["detail"])
        if session.as_json:
            render.data(answer)
        else:
            render.line(media_id, answer["url"])

    each(session, media_ids, one)


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
        job = follow(session, job["job_id"], None)
        if job.get("scan_status") != "clean":
            raise typer.Exit(1)
    elif session.as_json:
        render.data(job)
    else:
        render.line(job["job_id"], job["status"])
