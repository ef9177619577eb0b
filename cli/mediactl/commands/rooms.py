"""Lists of files: `ls`, and `rooms` with `ls`, `attach`, `detach`."""

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
    mine: Annotated[bool, typer.Option("--mine", help="What you uploaded, in a room or not.")] = False,
    name: Annotated[str | None, typer.Option(help="With --mine: only files whose name contains this.")] = None,
    type_: Annotated[MediaType | None, typer.Option("--type", help="Only these.")] = None,
    limit: Limit = 50,
    everything: All = False,
) -> None:
    """The files of a room, or with --mine those that you uploaded; newest first."""
    most = 0 if everything else limit
    if mine:
        in_room = None if room is None else room_id(room)
        found, more = session.api.items("media", limit=most, type=type_, name=name, room=in_room)
    elif room is None:
        raise Misuse("give a room, or --mine for the files that you uploaded")
    elif name is not None:
        raise Misuse("--name is for --mine")
    else:
        found, more = session.api.items("rooms", room_id(room), "files", limit=most, type=type_)
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
                render.when_short(item.get("added_at") or item.get("created_at")),
                item.get("added_by") or item.get("uploaded_by"),
                item["media_id"],
            ]
            for item in found
        ],
    )
    if not found:
        render.note("Nothing that you uploaded." if mine else f"Nothing in {room} that this token may see.")
    elif more:
        render.note(f"These are the newest {len(found)}; --all shows all.")


@command(rooms, "attach")
def attach(session: Session, room: Room, media_id: MediaId) -> None:
    """Put a file that is uploaded already into a room."""
    item = session.api.call("POST", path_of("rooms", room_id(room), "files"), json={"media_id": media_id})
    if session.as_json:
        render.data(item)
    else:
        render.line("attached", media_id, room)


@command(rooms, "detach")
def detach(session: Session, room: Room, media_id: MediaId) -> None:
    """Take a file out of a room; the file itself stays."""
    session.api.call("DELETE", path_of("rooms", room_id(room), "files", media_id))
    if session.as_json:
        render.data({"media_id": media_id, "room_id": room, "detached": True})
    else:
        render.line("detached", media_id, room)
