"""`GET /v1/transcripts/search`: where something was said."""

from typing import Annotated, Final

from fastapi import APIRouter, Query

from media_api.answers import problems
from media_api.auth import Reader
from media_api.models import Page, SearchHit
from media_api.requests import wrong_input
from media_api.requests.identifiers import label_filters
from media_api.routes.parameters import (
    Cursor,
    KnownOnly,
    LabelFilters,
    RoomFilter,
    next_cursor,
    not_a_cursor,
    read_cursor,
)
from media_api.services import Wired
from media_core.transcripts.formats import LANGUAGES
from media_core.transcripts.search import Continuation, PassageKey, Wanted

router = APIRouter(tags=["Search"])

_MOST: Final = 2**62


@router.get(
    "/v1/transcripts/search",
    responses=problems.described("not_found", "invalid_request"),
    response_model_exclude_unset=True,
)
async def search_transcripts(
    caller: Reader,
    _known: KnownOnly,
    services: Wired,
    q: Annotated[
        str,
        Query(
            min_length=1,
            max_length=500,
            description='Words, `"a phrase"` or the beginning of a word (`budg*`); at most 16 words. '
            "With a hyphen before it (`-draft`) it must not be said within about a minute.",
            examples=['"next year" budg*'],
        ),
    ],
    room_id: RoomFilter,
    owner: Annotated[
        str | None,
        Query(min_length=1, max_length=255, description="Only files of this uploader: `me`, or the `sub` of a token."),
    ] = None,
    language: Annotated[
        str | None,
        Query(description="Only what is in this language, such as `en`.", json_schema_extra={"format": "language"}),
    ] = None,
    label: LabelFilters = [],  # noqa: B006 (FastAPI copies it)
    limit: Annotated[int, Query(ge=1, le=200, description="Most hits in the answer, 1 to 200.")] = 20,
    cursor: Cursor = None,
) -> Page[SearchHit]:
    """Where something was said in the recordings that you may read and that were transcribed, by whomever.

    All words have to be said within about a minute: for one word or another ask twice, as `or` is a word like `the`.
    Case, accents and endings make no difference (`budgets` finds `Budget`), each language by its own rules; in
    languages without such rules the words have to be the same. Words such as `the` are ignored outside of phrases. A
    transcript can be searched from its job's completion until its file is deleted, also when the job is gone.

    The best hits of the newest 500 passages come first, then the best of the next 500, and so on. The list ends where
    `next_cursor` is null: a page may have fewer hits than `limit`, even none, and the list go on.
    """
    for given, text in (("q", q), ("owner", owner or "")):
        if "\0" in text:
            raise wrong_input.refused(given, "it must be a text without NUL")
    if language is not None and language.lower() not in LANGUAGES:
        raise wrong_input.refused("language", "it must be an ISO 639-1 code such as en")
    wanted = Wanted(
        q,
        room_id=room_id,
        owner=caller.subject if owner == "me" else owner,
        language=None if language is None else language.lower(),
        labels=label_filters(label),
    )
    hits, goes_on = await services.search.find(caller, wanted, after=_position(cursor) if cursor else None, limit=limit)
    return Page(
        data=[SearchHit.of(hit, caller) for hit in hits],
        next_cursor=None if goes_on is None else next_cursor(*_written(goes_on)),
    )


def _written(position: Continuation) -> tuple[str, ...]:
    part = (str(position.part.transcript), str(position.part.number))
    if position.passage is None:
        return (*part, "", "", "", "")
    return (
        *part,
        repr(position.rank),
        str(position.passage.transcript),
        str(position.passage.number),
        str(position.hits),
    )


def _position(cursor: str) -> Continuation:
    transcript, number, rank, *passage = read_cursor(cursor, 6)
    try:
        part = _key(transcript, number)
        if not rank:
            return Continuation(part)
        return Continuation(part, float(rank), _key(passage[0], passage[1]), min(int(passage[2]), _MOST))
    except ValueError:
        raise not_a_cursor() from None


def _key(transcript: str, number: str) -> PassageKey:
    """Raises ValueError."""
    key = PassageKey(int(transcript), int(number))
    if not (0 <= key.transcript < _MOST and 0 <= key.number < 2**31):
        raise ValueError("out of range")
    return key
