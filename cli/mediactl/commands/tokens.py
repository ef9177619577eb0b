"""`token`: shows what TOKEN says, or mints a new token."""

import time
from pathlib import Path
from typing import Annotated

import typer

from mediactl.errors import Misuse
from mediactl.exchange import known_room
from mediactl.program import render, times
from mediactl.program.command import app, command
from mediactl.program.session import HOW_TO_SIGN_IN, Session

MINTING = "Minting a token"


@command(app, "token")
def token(
    session: Session,
    signing_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private keys: .run/TENANT/signing-keys.json.", rich_help_panel=MINTING),
    ] = None,
    sub: Annotated[
        str | None, typer.Option(metavar="NAME", help="The person the token is for.", rich_help_panel=MINTING)
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="media:read, media:write, transcribe, admin; repeatable. Default: all but admin.",
            rich_help_panel=MINTING,
        ),
    ] = None,
    room: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROOM", help="A room whose files it may see, '*': all; repeatable.", rich_help_panel=MINTING
        ),
    ] = None,
    lifetime: Annotated[
        str, typer.Option(metavar="TIME", help="How long it is valid: 30s, 15m, 12h, 7d.", rich_help_panel=MINTING)
    ] = "12h",
    tenant: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The tenant's id. Default: name of the key's folder.", rich_help_panel=MINTING),
    ] = None,
) -> None:
    """Show what TOKEN says, or mint a token.

    To mint one: export TOKEN=$(mediactl token --signing-key .run/acme/signing-keys.json --sub alice --room '*')
    """
    # PyJWT imports cryptography, which takes longer than most commands run.
    from mediactl.program import tokens

    if signing_key is None:
        if sub or scope or room or tenant:
            raise Misuse("minting a token needs the key that signs it: --signing-key .run/TENANT/signing-keys.json")
        _show(session)
        return
    if not sub:
        raise Misuse("a token names a person: give --sub NAME")
    scopes = [word for entry in scope or tokens.DEFAULT_SCOPES for word in entry.replace(",", " ").split()]
    if unknown := sorted(set(scopes) - set(tokens.SCOPES)):
        raise Misuse(f"unknown scope: {', '.join(unknown)}; the scopes are {', '.join(tokens.SCOPES)}")
    minted = tokens.mint(
        signing_key,
        subject=sub,
        tenant=tenant,
        scopes=scopes,
        rooms=[known_room(one) for one in room or []],
        seconds=times.lifetime(lifetime),
    )
    if session.as_json:
        render.data({"token": minted, "claims": tokens.claims_of(minted)})
    else:
        print(minted)


def _show(session: Session) -> None:
    from mediactl.program import tokens  # as above

    if not session.token:
        raise Misuse(f"TOKEN is not set: {HOW_TO_SIGN_IN}")
    claims = tokens.claims_of(session.token.strip())
    if session.as_json:
        render.data(claims)
        return
    expiry = tokens.expiry_of(claims)
    audience = claims.get("aud")
    room_ids = tokens.words_of(claims.get("rooms"))
    render.fields(
        {
            "subject": claims.get("sub", "nobody"),
            "tenant": (audience if isinstance(audience, str) else ", ".join(tokens.words_of(audience))) or "none",
            "issuer": claims.get("iss"),
            "scopes": " ".join(tokens.words_of(claims.get("scope", claims.get("scp")))) or "none",
            "rooms": "all" if "*" in room_ids else ", ".join(room_ids) or "none",
            "expires": claims.get("exp", "never") if expiry is None else render.expiry(expiry),
        }
    )
    if expiry is not None and expiry.timestamp() < time.time():
        render.note("This token has expired: the API will answer 401.")
    render.note("This is what the token says; it was not verified.")
