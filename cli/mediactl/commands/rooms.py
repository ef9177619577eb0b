"""Commands for the files of a room: `ls`, and `rooms` with `ls`, `attach`, `detach`."""

from enum import StrEnum
from typing import Annotated

import typer

from mediactl import render
from mediactl.client import Misuse, path_of, room_id
from mediactl.command import All, Limit, MediaId, Room, app, command, rooms
from mediactl.render import Column
from mediactl.session import Session


class MediaType(StrEnum):
    image = "image"
    audio = "audio"
    video = "video"
    document = "document"


@command(rooms, "ls")
@command(app, "ls")
def ls(
    session: Session,
    room: Annotated[str | None, typer.Argument(metavar="ROOM", help="A room's id.")] = None,
    type_: Annotated[MediaType | None, typer.Option("--type", help="Show only this type.")] = None,
    limit: Limit = 50,
    everything: All = False,
) -> None:
    """List the files of a room, newest first.

    The API lists files only by room. A file uploaded without a room is found only by its id, which `upload` printed.
    """
    if room is None:
        raise Misuse("give a room; a file uploaded without a room is found only by its id, which `upload` printed")
    found, more = session.api.items("rooms", room_id(room), "files", limit=0 if everything else limit, type=type_)
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
        render.note(f"{room} has no files that this token may see.")
    elif more:
        render.note(f"These are the newest {len(found)}; --all shows all.")


@command(rooms, "attach")
def attach(session: Session, room: Room, media_id: MediaId) -> None:
    """Add an uploaded file to a room."""
    item = session.api.call("POST", path_of("rooms", room_id(room), "files"), json={"media_id": media_id})
    if session.as_json:
        render.data(item)
    else:
        render.line("attached", media_id, room)


@command(rooms, "detach")
def detach(session: Session, room: Room, media_id: MediaId) -> None:
    """Remove a file from a room; the file itself stays."""
    session.api.call("DELETE", path_of("rooms", room_id(room), "files", media_id))
    if session.as_json:
        render.data({"media_id": media_id, "room_id": room, "detached": True})
    else:
        render.line("detached", media_id, room)
