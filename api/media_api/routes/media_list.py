"""`GET /v1/media`: the files that somebody has uploaded."""

import re
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BeforeValidator

from media_api.answers import problems
from media_api.auth import Reader
from media_api.models import MediaInfo, Page
from media_api.requests.identifiers import WITHOUT_NUL, label_filters
from media_api.requests.wrong_input import TIME
from media_api.routes.parameters import (
    CategoryFilter,
    Cursor,
    KnownOnly,
    LabelFilters,
    RoomFilter,
    next_cursor,
    not_a_cursor,
    read_cursor,
)
from media_api.services import Wired
from media_core.items.listing import Filter, Order, Position, SortValue, Status

router = APIRouter(tags=["Media"])

_BEGINS: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")


def _as_text(text: str) -> str:
    """pydantic takes a number for seconds since 1970."""
    if not _BEGINS.match(text):
        raise ValueError(TIME)
    return text


Time = Annotated[AwareDatetime, BeforeValidator(_as_text)]
Sort = Literal["created", "-created", "name", "-name", "size", "-size"]


@router.get(
    "/v1/media",
    responses=problems.described("insufficient_scope", "not_found", "invalid_request"),
    response_model_exclude_unset=True,
)
async def list_media(
    caller: Reader,
    _known: KnownOnly,
    services: Wired,
    room_id: RoomFilter,
    owner: Annotated[
        str,
        Query(
            min_length=1,
            max_length=255,
            pattern=WITHOUT_NUL,
            description="Whose uploads: `me`; for admins also a subject (the `sub` of a token), or `all`.",
        ),
    ] = "me",
    category: CategoryFilter = None,
    scan_status: Annotated[Status | None, Query(description="Only files with this verdict.")] = None,
    name: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=255,
            pattern=WITHOUT_NUL,
            description="Only files whose name contains this. Case and accents make no difference.",
        ),
    ] = None,
    created_after: Annotated[
        Time | None, Query(description="Only files that were uploaded at this time or later.")
    ] = None,
    created_before: Annotated[Time | None, Query(description="Only files that were uploaded before this time.")] = None,
    label: LabelFilters = [],  # noqa: B006 (FastAPI copies it)
    sort: Annotated[Sort, Query(description="`-`: descending.")] = "-created",
    limit: Annotated[int, Query(ge=1, le=200, description="Most files in the answer, 1 to 200.")] = 50,
    cursor: Cursor = None,
) -> Page[MediaInfo]:
    """The files that you have uploaded. Infected ones are never listed.

    The list ends where `next_cursor` is null. A page with filters looks at a bounded number of files: it may have fewer
    than `limit`, even none, and the list go on.
    """
    wanted = Filter(
        owner={"me": caller.subject, "all": None}.get(owner, owner),
        category=category,
        room_id=room_id,
        scan_status=scan_status,
        name=name,
        created_after=created_after,
        created_before=created_before,
        labels=label_filters(label),
    )
    order: Order = sort.removeprefix("-")  # type: ignore[assignment]  # what `Sort` allows
    items, goes_on = await services.library.list_files(
        caller,
        wanted,
        order=order,
        descending=sort.startswith("-"),
        after=_position(cursor, sort) if cursor else None,
        limit=limit,
    )
    return Page(
        data=[MediaInfo.of(item, caller) for item in items],
        next_cursor=None if goes_on is None else next_cursor(sort, _written(goes_on.value), goes_on.media_id),
    )


def _written(value: SortValue) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case str():
            return value.encode().hex()
        case _:
            return str(value)


def _position(cursor: str, sort: Sort) -> Position:
    sorted_by, written, media_id = read_cursor(cursor, 3)
    if sorted_by != sort:
        raise not_a_cursor()
    try:
        return Position(_read(written, sort), media_id)
    except ValueError:
        raise not_a_cursor() from None


def _read(written: str, sort: Sort) -> SortValue:
    """Raises ValueError."""
    match sort.removeprefix("-"):
        case "created":
            moment = datetime.fromisoformat(written)
            if moment.tzinfo is None:
                raise ValueError("without a time zone")
            return moment
        case "name":
            name = bytes.fromhex(written).decode()
            if "\0" in name:
                raise ValueError("with NUL")
            return name
        case _:
            size = int(written)
            if not 0 <= size < 2**63:
                raise ValueError("out of range")
            return size
