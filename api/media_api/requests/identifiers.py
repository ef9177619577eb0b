"""What can be an id of a file, an upload, a job or a room, or a label, wherever in a request it stands."""

import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from media_api.requests.filenames import is_kept
from media_api.requests.wrong_input import MAX_SHOWN_CHARACTERS, refused
from media_core.errors import not_found

_ID: Final = re.compile(r"(?:med|med-thumb|job|upl)-[0-9A-HJKMNP-TV-Z]{26}")

LABEL_KEY: Final = "[a-z0-9._-]{1,63}"
_LABEL_KEY: Final = re.compile(LABEL_KEY)

MAX_LABELS: Final = 16
"""Of one file."""
_LABELS: Final = TypeAdapter(dict[str, str])

MAX_ROOM_CHARACTERS: Final = 255
MAX_LABEL_CHARACTERS: Final = 255


WITHOUT_NUL: Final = r"^[^\x00]*$"
"""A pattern of texts that the database can hold."""
ROOM_SCHEMA: Final[dict[str, Any]] = {"format": "room-id"}
"""OpenAPI's. Its patterns can't say what is printable, so the format has a name."""


def is_id(identifier: str) -> bool:
    return _ID.fullmatch(identifier) is not None


def known_id(identifier: str) -> str:
    """What can't be an id is as unknown as an id that doesn't exist; it need not reach the database."""
    if not is_id(identifier):
        raise not_found()
    return identifier


def visitable_room(room_id: str) -> str:
    """The room id itself, of an address. As with `known_id`, what can't be a room is as unknown as one of others."""
    if not _can_be_a_room(room_id):
        raise not_found()
    return room_id


def _can_be_a_room(room_id: str) -> bool:
    return 0 < len(room_id) <= MAX_ROOM_CHARACTERS and "/" not in room_id and all(map(is_kept, room_id))


def known_room(room_id: str) -> str:
    """The room id itself. Raises Refused `invalid_request` for a malformed one, whether or not a room exists."""
    if not _can_be_a_room(room_id):
        what = f"A room id has 1 to {MAX_ROOM_CHARACTERS} printable characters, none of them `/`"
        raise refused("room_id", what, f"{what}.")
    return room_id


def checked_label(key: str, value: str) -> tuple[str, str]:
    """Raises ValueError, with a sentence, for what is no label."""
    if not _LABEL_KEY.fullmatch(key):
        what = f"{key[:MAX_SHOWN_CHARACTERS]!r} is no key of a label"
        raise ValueError(f"{what}: it has 1 to 63 characters of a-z, 0-9, dot, underscore and hyphen")
    if len(value) > MAX_LABEL_CHARACTERS or not all(map(is_kept, value)):
        raise ValueError(f"The value of the label {key} has at most {MAX_LABEL_CHARACTERS} printable characters")
    return key, value


def checked_labels(labels: dict[str, str]) -> dict[str, str]:
    """The labels of one file. Raises ValueError, with a sentence."""
    if len(labels) > MAX_LABELS:
        raise ValueError(f"A file has at most {MAX_LABELS} labels")
    for key, value in labels.items():
        checked_label(key, value)
    return labels


def labels_in(text: str | None) -> dict[str, str]:
    """The labels that an upload is sent with, as JSON. Raises Refused `invalid_request`."""
    if not text:
        return {}
    try:
        return checked_labels(_LABELS.validate_json(text))
    except ValidationError as error:
        keys = error.errors(include_url=False, include_input=False)[0]["loc"]
        if keys:
            what = f'the value of {str(keys[0])[:MAX_SHOWN_CHARACTERS]!r} must be a text, such as "2026"'
        else:
            what = 'it must be a JSON object of texts, such as {"project": "atlas"}'
        raise refused("labels", what) from None
    except ValueError as error:
        raise refused("labels", str(error)) from None


def label_filters(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The labels that a list is filtered by, each `key=value`, and each once. Raises Refused `invalid_request`."""
    return tuple(dict.fromkeys(map(_label_filter, texts)))


def _label_filter(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise refused("label", "it must be key=value")
    try:
        return checked_label(key, value)
    except ValueError as error:
        raise refused("label", str(error)) from None
