"""Signatures of URLs that the api itself serves: HMAC-SHA256 over what a URL allows, and until when it does."""

import hashlib
import hmac
from datetime import datetime

from media_core.errors import Refused


def signature(key: bytes, *fields: str, flags: bytes = b"") -> str:
    """In hex. `flags`: what else is signed, always of one length."""
    # With their lengths, so that no two lists of fields give the same message.
    encoded = [field.encode(errors="surrogatepass") for field in fields]
    message = b"".join(len(field).to_bytes(8, "big") + field for field in encoded) + flags
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def check(wanted: str, given: str) -> None:
    """`wanted`: the signature of what the URL says, its time included; `given`: the URL's own.

    Raises Refused `signature_invalid` where they differ.
    """
    if not hmac.compare_digest(wanted.encode(), given.encode("utf-8", "replace")):
        raise invalid()


def check_time(expires: int, now: datetime) -> None:
    """`expires`: seconds since 1970, of a URL whose signature was checked. Raises Refused `signature_expired`."""
    if now.timestamp() >= expires:
        raise Refused("signature_expired", "This URL has expired; ask for a new one.")


def invalid() -> Refused:
    return Refused("signature_invalid", "This URL was not signed here, or was changed since.")
