"""`command` registers a function that takes a `Session` as a command of `app` or of one of its groups."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Annotated, Any, Concatenate, ParamSpec

import typer
from typer.core import TyperGroup

from mediactl.errors import Misuse
from mediactl.program.session import Session, about, failures_as_exit_codes


class _Plain(TyperGroup):
    """A group whose refusals of an option's value do not begin with the name of pydantic's error."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="mediactl",
    cls=_Plain,
    help="Upload, download, list and transcribe a tenant's media. BASE and TOKEN come from the environment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
rooms = typer.Typer(help="Add a file to a room, or remove one.", no_args_is_help=True)
jobs = typer.Typer(help="Show and cancel background work: transcriptions and scans.", no_args_is_help=True)
app.add_typer(rooms, name="rooms")
app.add_typer(jobs, name="jobs")

SHARED = "Before or after any command"
Base = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Address of the API, without /v1. Default: $BASE.", rich_help_panel=SHARED),
]
Token = Annotated[
    str | None, typer.Option(metavar="JWT", help="Your bearer token. Default: $TOKEN.", rich_help_panel=SHARED)
]
Json = Annotated[bool, typer.Option("--json", help="Print the API's data, for scripts.", rich_help_panel=SHARED)]
MediaId = Annotated[str, typer.Argument(metavar="ID", help="A media id, med-…")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job id, job-…")]
Room = Annotated[str, typer.Argument(metavar="ROOM", help="A room's id.")]
Limit = Annotated[int, typer.Option(min=1, help="Show at most so many.")]
All = Annotated[bool, typer.Option("--all", help="Show all.")]

P = ParamSpec("P")


def labels_of(texts: Iterable[str] | None) -> dict[str, str]:
    """Labels written as `key=value`. Raises Misuse."""
    labels = {}
    for text in texts or ():
        key, separator, labels[key] = text.partition("=")
        if not separator:
            raise Misuse(f"a label looks like key=value, not {text!r}")
    return labels


Command = Callable[Concatenate[Session, P], None]


def command(group: typer.Typer, name: str) -> Callable[[Command[P]], Command[P]]:
    """Registers a function as `name` of `group`. Adds --base, --token and --json; failures become exit codes."""

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
            with failures_as_exit_codes(session.as_json), about(**arguments):
                function(session, **arguments)  # type: ignore[call-arg]  # typer passes what the signature below names
                # Here and not at exit, where Python would report a reader that has gone.
                sys.stdout.flush()

        own = list(inspect.signature(function).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter("context", keyword, annotation=typer.Context),
            inspect.Parameter("base", keyword, default=None, annotation=Base),
            inspect.Parameter("token", keyword, default=None, annotation=Token),
            inspect.Parameter("as_json", keyword, default=False, annotation=Json),
        ]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # inspect.signature() reads this first
            [parameter.replace(kind=keyword) for parameter in own] + shared
        )
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in own + shared}
        group.command(name)(run)
        return function

    return register


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mediactl {metadata.version('mediactl')}")
        raise typer.Exit


@app.callback()
def before_the_command(
    base: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Address of the API, without /v1.", envvar="BASE", rich_help_panel=SHARED),
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="JWT", help="Your bearer token.", envvar="TOKEN", rich_help_panel=SHARED)
    ] = None,
    as_json: Json = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command. Each command reads them from the root's parameters."""
