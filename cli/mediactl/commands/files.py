"""One file, or several: `upload`, `download`, `info`, `rename`, `labels`, `rm`, `url`, `sign`, `rescan`."""

import contextlib
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mediactl.errors import Failed, Misuse, Problem, Unreachable
from mediactl.exchange import PATIENCE, known_room
from mediactl.models import Media
from mediactl.program import render
from mediactl.program.command import MediaId, app, command, labels_of
from mediactl.program.following import follow
from mediactl.program.render import Column
from mediactl.program.session import Session, about, each, in_room, source_of, under_way, with_bar
from mediactl.resuming import FROM_BYTES
from mediactl.sending import Source

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
    room: Annotated[str | None, typer.Option(help="Add them to this room.")] = None,
    tenant_scope: Annotated[bool, typer.Option("--tenant-scope", help="Let everybody of the tenant see them.")] = False,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label them; repeatable.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the scanner's verdict.")] = False,
    name: Annotated[str | None, typer.Option(help="Store it under this file name (one file only).")] = None,
) -> None:
    """Upload files.

    Prints a line for each: media id, scan status, size, type, name. After a break the same command goes
    on with a large file where it stopped.
    """
    if name and len(files) > 1:
        raise Misuse("--name is for one file, and several are given")
    room_id = None if room is None else known_room(room)
    wanted: dict[str, Any] = {"room_id": room_id, "tenant_scope": tenant_scope, "labels": labels_of(label)}

    def send(source: Source) -> Media:
        try:
            return with_bar(
                source,
                lambda on_bytes: session.client.upload(source, **wanted, on_bytes=on_bytes, notes=under_way()),
            )
        except KeyboardInterrupt:
            if source.size is not None and source.size >= FROM_BYTES:
                render.note("The same command goes on from here.")
            raise

    def one(path: Path) -> None:
        with source_of(path, name) as source:
            with in_room(room):
                item = send(source)
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


def _await_verdict(session: Session, item: Media) -> Media:
    """The item with its verdict. Infected content is answered 404, which is the verdict here. Raises Failed."""
    ends = time.monotonic() + VERDICT_WITHIN
    pause, silent_since = 0.2, 0.0
    with render.err.status("waiting for the verdict") if render.err.is_terminal else contextlib.nullcontext():
        # `error` is not final: the scan is tried again.
        while item["scan_status"] in {"pending", "error"}:
            if time.monotonic() > ends:
                after = render.span(VERDICT_WITHIN)
                raise Failed(f"{item['media_id']} has no verdict after {after}; is the scanner running?")
            time.sleep(pause)
            pause = min(pause * 1.5, 3.0)
            try:
                item = session.client.info(item["media_id"])
            except Problem as problem:
                if problem.status != 404:
                    raise
                item = {**item, "scan_status": "infected"}
            except Unreachable as error:
                # The file is stored, and the API may be restarting.
                if not silent_since:
                    silent_since = time.monotonic()
                    session.say_wait(error, pause)
                if time.monotonic() - silent_since > PATIENCE:
                    raise
            else:
                silent_since = 0.0
    return item


@command(app, "download")
def download(
    session: Session,
    media_id: MediaId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File or folder; - is standard output.")] = None,
    thumbnail: Annotated[bool, typer.Option("--thumbnail", help="Download its thumbnail instead.")] = False,
    size: Annotated[int | None, typer.Option(help="Longest side of the thumbnail: 160, 320, 640, 1024.")] = None,
) -> None:
    """Download a file under its own name and check its sha256.

    After a break the same command goes on where it stopped.
    """
    _check_size(size, thumbnail=thumbnail)
    jpeg = output is not None and output.suffix.lower() in {".jpg", ".jpeg"}
    with render.transfer_progress() as progress:
        task = progress.add_task(render.printable(output.name if output else media_id), total=None)

        def show(position: int, total: int | None) -> None:
            progress.update(task, completed=position, total=total)

        wanted: dict[str, Any] = {"thumbnail": thumbnail, "size": size, "jpeg": jpeg, "on_bytes": show}
        try:
            if output is not None and str(output) == "-":
                session.client.download_to(sys.stdout.buffer, media_id, **wanted)
                return
            done = session.client.download(media_id, output, **wanted)
        except KeyboardInterrupt:
            progress.stop()
            render.note("The same command continues this download.")
            raise
    if session.as_json:
        render.data({"path": str(done.path), "size": done.size, "outcome": done.outcome})
    else:
        render.line(done.path, render.size(done.size), done.outcome)


def _check_size(size: int | None, *, thumbnail: bool) -> None:
    if size is not None and not thumbnail:
        raise Misuse("--size needs --thumbnail")
    if size is not None and size not in PREVIEW_SIZES:
        raise Misuse(f"--size {size}: it has to be one of {', '.join(map(str, PREVIEW_SIZES))}")


@command(app, "info")
def info(session: Session, media_id: MediaId) -> None:
    """Show all that is known about a file."""
    item = session.client.info(media_id)
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


@command(app, "rename")
def rename(
    session: Session, media_id: MediaId, name: Annotated[str, typer.Argument(metavar="NAME", help="Its new name.")]
) -> None:
    """Give a file another name.

    Prints the name as it is kept.
    """
    item = session.client.change(media_id, filename=name)
    if session.as_json:
        render.data(item)
    else:
        render.line("renamed", media_id, item["filename"])


@command(app, "labels")
def labels(
    session: Session,
    media_id: MediaId,
    given: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Labels to set.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="KEY", help="A label to remove; repeatable.")] = None,
) -> None:
    """Show the labels of a file, after setting and removing those that are given.

    Prints a line for each: key, value.
    """
    item = session.client.label(media_id, labels_of(given), remove=remove or ())
    if session.as_json:
        render.data(item.get("labels", {}))
    else:
        render.table([Column("KEY"), Column("VALUE")], [[*pair] for pair in item.get("labels", {}).items()])


@command(app, "rm")
def rm(session: Session, media_ids: Annotated[list[str], typer.Argument(metavar="ID", help="Media ids.")]) -> None:
    """Delete files for good, for everybody."""

    def one(media_id: str) -> None:
        with about(media_id=media_id):
            session.client.delete(media_id)
        if session.as_json:
            render.data({"media_id": media_id, "deleted": True})
        else:
            render.line("deleted", media_id)

    each(session, media_ids, one)


@command(app, "url")
def url(
    session: Session,
    media_id: MediaId,
    thumbnail: Annotated[bool, typer.Option("--thumbnail", help="A URL of its thumbnail instead.")] = False,
) -> None:
    """Print a download URL that needs no token and is valid for five minutes."""
    signed = session.client.signed(media_id, thumbnail=thumbnail)
    if session.as_json:
        render.data(signed)
        return
    print(render.printable(signed["url"]))
    render.note(f"Valid until {render.when(signed['expires_at'])} for anybody who has it.")


@command(app, "sign")
def sign(
    session: Session,
    media_ids: Annotated[list[str], typer.Argument(metavar="ID", help="Media ids.")],
    thumbnail: Annotated[bool, typer.Option("--thumbnail", help="Sign their thumbnails instead.")] = False,
    size: Annotated[int | None, typer.Option(help="Longest side of the thumbnails: 160, 320, 640, 1024.")] = None,
    seconds: Annotated[int | None, typer.Option(min=1, help="How long they are valid. Default: 300.")] = None,
    via: Annotated[Via, typer.Option(help="api: URLs that end early with the file or its verdict.")] = Via.store,
) -> None:
    """Print download URLs of several files that need no token.

    Prints a line for each: media id, URL. Where there is none, stderr says why, and the exit code is 1.
    """
    _check_size(size, thumbnail=thumbnail)
    signed = session.client.sign(media_ids, thumbnail=thumbnail, size=size, expires_in=seconds, via=via.value)
    answers = {answer["media_id"]: answer for answer in signed}

    def one(media_id: str) -> None:
        answer = answers[media_id]
        if answer["error"] is not None:
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

    With --wait the exit code is 1 unless the file is clean.
    """
    job = session.client.rescan(media_id)
    if wait:
        ended = follow(session, job["job_id"], None)
        if ended.get("scan_status") != "clean":
            raise typer.Exit(1)
    elif session.as_json:
        render.data(job)
    else:
        render.line(job["job_id"], job["status"])
