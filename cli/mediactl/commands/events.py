"""`watch`: what happens to files, as it happens."""

import sys
from typing import Annotated, Literal, get_args, get_type_hints

import typer

from mediactl.errors import Problem
from mediactl.exchange import is_media_id
from mediactl.models import Event
from mediactl.program import render
from mediactl.program.command import app, command
from mediactl.program.session import Session

TYPES = get_args(get_type_hints(Event)["type"])


@command(app, "watch")
def watch(
    session: Session,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help=f"Only events of this type: {', '.join(TYPES)}; repeatable."),
    ] = None,
    media_id: Annotated[str | None, typer.Option("--file", metavar="ID", help="Only events of this file.")] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the oldest event that is kept, not now.")
    ] = False,
) -> None:
    """Print events of your files as they come, until Ctrl-C.

    With --json each line is an event.
    """
    start: Literal["oldest", "now"] = "oldest" if from_start else "now"
    try:
        if media_id is not None:
            _say_if_unseen(session, media_id)
        for event in session.client.watch(types=types or (), media_id=media_id, start=start):
            if session.as_json:
                render.data(event)
            else:
                facts = " ".join(f"{name}={value}" for name, value in event["data"].items())
                render.line(render.when(event["created_at"]), event["type"], event["media_id"], facts)
            sys.stdout.flush()  # in a pipe, too, they come one by one
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _say_if_unseen(session: Session, media_id: str) -> None:
    """It may come: a file can be shown to the caller later. A wrong id would be waited for without a word."""
    try:
        session.client.info(media_id)
    except Problem as problem:
        if problem.code != "not_found" or not is_media_id(media_id):
            raise
        render.failure(f"there is no file {media_id} that you may see; waiting for one")
