"""Lists of files: `ls`, and `rooms` with `attach` and `detach`."""

from typing import Annotated

import typer

from mediactl.client import MediaType, Sort
from mediactl.errors import Misuse
from mediactl.exchange import is_media_id
from mediactl.models import MediaInfo, RoomFile
from mediactl.program import render, times
from mediactl.program.command import All, Limit, MediaId, Room, app, command, labels_of, rooms
from mediactl.program.render import Column
from mediactl.program.session import Session, all_of, in_room

COLUMNS = (
    Column("NAME", shrinks=True, middle=True),
    Column("SIZE", right=True),
    Column("TYPE", shrinks=True, optional=2),
    Column("SCAN"),
    Column("ADDED", optional=1),
    Column("BY", shrinks=True, optional=3),
    Column("ID"),
)
MINE = "Of what you uploaded, or with --owner"


@command(app, "ls")
def ls(
    session: Session,
    room: Annotated[str | None, typer.Argument(metavar="ROOM", help="A room's id.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Of the room, only what you uploaded.")] = False,
    owner: Annotated[
        str | None, typer.Option(metavar="NAME", help="What this person uploaded; all: everybody. For admins.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only files whose name contains this.", rich_help_panel=MINE)] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only files with this label; repeatable.", rich_help_panel=MINE),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Uploaded since: 7d, 2026-05-17, 2026-05-17T14:00.", rich_help_panel=MINE),
    ] = None,
    sort: Annotated[
        Sort | None, typer.Option(help="Order; - turns it round. Default: -created.", rich_help_panel=MINE)
    ] = None,
    type_: Annotated[MediaType | None, typer.Option("--type", help="Only files of this type.")] = None,
    limit: Limit = 50,
    everything: All = False,
) -> None:
    """List what you uploaded, or the files of a room; newest first."""
    most = None if everything else limit
    found: list[MediaInfo] | list[RoomFile]
    if room is None or mine or owner is not None:
        pages = session.client.files(
            owner=owner,
            type=type_,
            room=room,
            name=name,
            created_after=None if since is None else times.moment(since),
            labels=labels_of(label),
            sort=sort,
            limit=most,
        )
        found, more = all_of(pages)
    else:
        filters = {"--name": name, "--label": label, "--since": since, "--sort": sort}
        if given := [option for option, value in filters.items() if value is not None]:
            raise Misuse(f"{given[0]} is for what you uploaded: add --mine")
        with in_room(room):
            found, more = all_of(session.client.room_files(room, type=type_, limit=most))
    if session.as_json:
        render.data(found)
        return
    render.table(COLUMNS, [_row(item) for item in found])
    if not found:
        render.note("There is no such file." if room is None else f"Nothing in {room} that this token may see.")
    elif more:
        words = "first" if sort else "newest"
        render.note(f"These are the {words} {len(found)}; --all shows all.")


def _row(item: MediaInfo | RoomFile) -> list[object]:
    return [
        item.get("filename"),
        render.size(item["size"]),
        item["mime_type"],
        item["scan_status"],
        render.when_short(item.get("added_at") or item.get("created_at")),
        item.get("added_by") or item.get("uploaded_by"),
        item["media_id"],
    ]


@command(rooms, "attach")
def attach(session: Session, room: Room, media_id: MediaId) -> None:
    """Add an uploaded file to a room."""
    with in_room(room):
        item = session.client.attach(_not_a_file(room), media_id)
    if session.as_json:
        render.data(item)
    else:
        render.line("attached", media_id, room)


@command(rooms, "detach")
def detach(session: Session, room: Room, media_id: MediaId) -> None:
    """Remove a file from a room; the file itself stays."""
    with in_room(room):
        session.client.detach(_not_a_file(room), media_id)
    if session.as_json:
        render.data({"media_id": media_id, "room_id": room, "detached": True})
    else:
        render.line("detached", media_id, room)


def _not_a_file(room: str) -> str:
    """`room`, unless it is the id of a file: then the arguments stand in the wrong order. Raises Misuse."""
    if is_media_id(room):
        raise Misuse(f"{room} is a file's id; the room comes first, then the file")
    return room
