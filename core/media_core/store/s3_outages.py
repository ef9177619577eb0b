"""What obstore raises, in the words of the store's contract: ObjectMissing, Unavailable. And limits of time for it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

from obstore.exceptions import BaseError

from media_core.errors import NotNow, Unavailable
from media_core.store.base import ObjectMissing, unavailable

_FULL = frozenset({"InsufficientStorage", "XMinioStorageFull"})
"""Of a server whose disk is full: versitygw's code, and MinIO's."""


@contextlib.contextmanager
def outages(key: str | None = None) -> Iterator[None]:
    """Turns obstore's errors into the contract's: ObjectMissing if `key` is given, otherwise Unavailable.

    Their text is not passed on, since it quotes the server's whole answer.
    """
    try:
        yield
    except FileNotFoundError as error:
        if key and "NoSuchBucket" not in str(error):
            raise ObjectMissing(key) from None
        raise _outage(error) from None
    except BaseError as error:
        raise _outage(error) from None


@contextlib.asynccontextmanager
async def ended_within(limit: timedelta, key: str | None = None) -> AsyncIterator[None]:
    """Cancels the block after `limit`, whatever retries and keys are left, and raises Unavailable.

    `key`: as for `outages`.
    """
    seconds = limit.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            with outages(key):
                yield
    except TimeoutError:
        raise unavailable(f"S3 did not answer: it was not done after {seconds:g} seconds") from None


def _outage(error: Exception) -> Unavailable:
    text = str(error)
    if code := re.search(r"<Code>(\w+)</Code>", text):
        return answered(code[1])
    if why := re.search(r"InvalidCertificate\(\s*(\w+)", text):
        return unavailable(f"the certificate of S3 is not accepted: {why[1]}")
    if status := re.search(r"status code: (\d{3}[ \w]*)", text):
        return answered(status[1].strip())
    return unavailable(f"S3 did not answer: {text.splitlines()[0].rpartition(' - ')[2]}")


class PartsRefused(Unavailable):
    """S3 has these parts, and makes no object of them. Cloudflare's R2 wants all but the last to have one size."""


def answered(code: str) -> Unavailable:
    """What an error code of S3 means."""
    if code in _FULL:
        return NotNow.disk_full("object store")
    return (PartsRefused if code == "InvalidPart" else Unavailable)("object store", f"S3 answered {code}")


def beyond_the_end(error: BaseError) -> bool:
    """Whether S3 has said that an object has no byte of the range that was asked for."""
    return "status code: 416" in str(error)
