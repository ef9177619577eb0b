"""The key to S3: a fixed one, or one in a file that somebody renews, such as a mounted Secret.

The file is one JSON object, so that nobody ever reads half of a renewal. Its form is what AWS's SDKs take from a
`credential_process`: `Version` 1, `AccessKeyId`, `SecretAccessKey`, and for a temporary key `SessionToken` and
`Expiration`. Other fields are passed over.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from media_core.store.base import unavailable

VERSION = 1
NO_END = 7 * 24 * 3600
"""Seconds that are told to be left of a key without an end: the longest that S3 lets a signed URL live."""


@dataclass(frozen=True)
class S3Key:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    """Of a temporary key: it is part of each request and of each signed URL."""
    expires_at: datetime | None = None
    """Aware. None: it has no end."""

    def seconds_left(self, now: datetime) -> int:
        """At least 0, at most `NO_END`."""
        if self.expires_at is None:
            return NO_END
        return max(0, min(NO_END, int((self.expires_at - now).total_seconds())))


class S3Keys(Protocol):
    """Where a store's key comes from. Asked before each use, from any thread."""

    def current(self) -> S3Key:
        """A key that has not ended. Raises Unavailable if there is none."""


@dataclass(frozen=True)
class FixedKey:
    key: S3Key

    def current(self) -> S3Key:
        return self.key


class KeyFile:
    """Looks at the file each time, and reads it again when it is another one than before.

    A file that is away or unreadable for a moment does no harm while the key of before is good.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        self._key: S3Key | None = None
        self._version: tuple[int, int, int] | None = None

    def current(self) -> S3Key:
        with self._reading:
            try:
                # Before it is read: if it is replaced in between, it looks changed the next time.
                seen = self._path.stat()
                version = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
                if version != self._version:
                    self._key, self._version = parsed(self._path.read_text(encoding="utf-8")), version
            except (OSError, ValueError) as error:
                if self._key is None:
                    raise unavailable(f"{self._path} holds no key to S3 ({type(error).__name__})") from None
            key = self._key
        assert key is not None  # noqa: S101 (raised above)
        if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
            raise unavailable(f"the key to S3 in {self._path} ended at {key.expires_at:%Y-%m-%d %H:%M:%S} UTC")
        return key


def parsed(text: str) -> S3Key:
    """The key in a file's text. Raises ValueError, which does not quote the text."""
    try:
        given = json.loads(text)
        until = given.get("Expiration")
        expires_at = None if until is None else datetime.fromisoformat(until)
        key = S3Key(given["AccessKeyId"], given["SecretAccessKey"], given.get("SessionToken"), expires_at)
        is_whole = given["Version"] == VERSION and bool(key.access_key_id and key.secret_access_key)
    except (ValueError, TypeError, KeyError, AttributeError):
        is_whole, expires_at = False, None
    if not is_whole or (expires_at is not None and expires_at.tzinfo is None):
        raise ValueError("no key in the form of a credential_process")
    return key


def as_text(key: S3Key, notes: Mapping[str, str] | None = None) -> str:
    """The file's text. `notes`: further fields, for who writes it."""
    given: dict[str, str | int] = {
        "Version": VERSION,
        "AccessKeyId": key.access_key_id,
        "SecretAccessKey": key.secret_access_key,
    }
    if key.session_token is not None:
        given["SessionToken"] = key.session_token
    if key.expires_at is not None:
        given["Expiration"] = key.expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(given | dict(notes or {}))
