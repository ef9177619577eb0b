"""`search`: where something was said."""

from typing import Annotated

import typer
from rich.text import Text

from mediactl.models import SnippetPart
from mediactl.program import render
from mediactl.program.command import All, Limit, app, command, labels_of
from mediactl.program.session import Session, all_of


@command(app, "search")
def search(
    session: Session,
    words: Annotated[list[str], typer.Argument(metavar="WORD", help='Words, "a phrase", or the beginning of a word*.')],
    room: Annotated[str | None, typer.Option(help="Only files of this room.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only files that you uploaded.")] = False,
    language: Annotated[str | None, typer.Option(help="Only what is in this language, such as en.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only files with this label; repeatable.")
    ] = None,
    limit: Limit = 20,
    everything: All = False,
) -> None:
    """Find where something was said in transcribed recordings.

    Prints a line for each place: media id, time, file name, and what was said there.
    """
    # A shell takes the quotes of a phrase away.
    query = " ".join(f'"{word}"' if " " in word and '"' not in word else word for word in words)
    most = None if everything else limit
    owner = "me" if mine else None
    hits, more = all_of(
        session.client.search(query, room=room, owner=owner, language=language, labels=labels_of(label), limit=most)
    )
    if session.as_json:
        render.data(hits)
        return
    for hit in hits:
        said = "".join(part["text"] for part in hit["snippet"])
        place = (hit["media_id"], render.clock(hit["start"]), hit["filename"])
        if not render.out.is_terminal:
            render.line(*place, said)
            continue
        render.line(*place)
        render.out.print(_marked(hit["snippet"]))
    if not hits:
        render.note("Nothing that you may see was found.")
    elif more:
        render.note(f"These are the first {len(hits)}; --all shows all.")


def _marked(snippet: list[SnippetPart]) -> Text:
    """A snippet for a terminal, what was searched for in bold."""
    return Text("  ").join(
        [
            Text(),
            Text.assemble(*((render.printable(part["text"]), "bold" if part["marked"] else "") for part in snippet)),
        ]
    )
