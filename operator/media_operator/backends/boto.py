"""boto3 from asyncio: a client's calls in a few threads of its own, bounded in time, its errors as one sentence each.

A sentence names the operation, the server's error code and the settings to look at. The server's own text goes no
further: it may quote the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, ParamSpec, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from media_core.errors import Unavailable
from media_core.store.encryption import name_in_writes
from media_operator.backends.breaker import RequestRefused
from media_operator.settings import StoreAdminSettings

_P = ParamSpec("_P")
_T = TypeVar("_T")

THREADS = 8
CONNECT_TIMEOUT = 3
ANSWER_TIMEOUT = 10
"""Seconds that a server may say nothing."""
ATTEMPTS = 2

_BAD_KEY = {"InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch", "AuthFailure", "ExpiredToken"}
_REFUSED = {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "UnauthorizedAccess", "Forbidden", "403"}
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_NO_SUCH_API = {"NotImplemented", "MethodNotAllowed", "InvalidAction", "UnknownOperationException", "405", "501"}
_NO_SUCH_API |= {"MissingParameter"}  # MinIO, whose STS listens where IAM would


class Threads:
    """Runs blocking calls; a pool of its own, since asyncio's is small and shared with whatever blocks elsewhere."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(THREADS, name)

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(work, *args, **kwargs))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def open_client(service: Literal["s3", "iam"], settings: StoreAdminSettings) -> Any:
    """A client with the operator's key. Makes no request."""
    client = _session().client(
        service,
        endpoint_url=settings.endpoint if service == "s3" else settings.iam_endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key.get_secret_value(),
        config=Config(
            s3={"addressing_style": "path"},
            signature_version="s3v4" if service == "s3" else None,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=ANSWER_TIMEOUT,
            max_pool_connections=THREADS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        ),
    )
    if service == "s3":
        name_in_writes(client, settings.sse, settings.sse_kms_key_id)
    return client


@contextlib.contextmanager
def outages(dependency: Literal["store", "iam"], settings: StoreAdminSettings, what: str = "") -> Iterator[None]:
    """Turns what boto3 raises into `Unavailable(dependency, sentence)`, or `RequestRefused`, if only this request is.

    `what`: the bucket or user that it is about.
    """
    try:
        yield
    except ClientError as error:
        about_all = code(error) in _BAD_KEY | _NO_SUCH_API | {"RequestTimeTooSkewed"}
        kind = RequestRefused if is_refusal(error) and not about_all else Unavailable
        raise kind(dependency, _sentence(dependency, error, what)) from None
    except (BotoCoreError, ResponseParserError) as error:
        endpoint = (settings.endpoint if dependency == "store" else settings.iam_endpoint) or "AWS"
        sentence = f"{_NAMES[dependency]} at {endpoint} does not answer ({type(error).__name__})"
        raise Unavailable(dependency, sentence) from None


def code(error: ClientError) -> str:
    """The server's error code; for an answer without a body, the HTTP status."""
    return str(error.response.get("Error", {}).get("Code") or status(error))


def status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_refusal(error: ClientError) -> bool:
    """The server will not do this, now or later. Anything else (5xx, throttling, a race) may be tried again."""
    if code(error) in ("RequestTimeout", "OperationAborted", "SlowDown"):
        return False
    return status(error) == 501 or (400 <= status(error) < 500 and status(error) not in (408, 429))


_NAMES = {"store": "S3", "iam": "IAM"}


def _sentence(dependency: Literal["store", "iam"], error: ClientError, what: str) -> str:
    name, reason = _NAMES[dependency], f"{code(error)} to {error.operation_name}"
    endpoint = "MEDIA_OPERATOR_S3_ENDPOINT" if dependency == "store" else "MEDIA_OPERATOR_S3_IAM_ENDPOINT"
    if code(error) in _BAD_KEY:
        return (
            f"{name} does not accept the operator's key ({reason}): check MEDIA_OPERATOR_S3_ACCESS_KEY_ID, its secret, "
            f"and {endpoint}"
        )
    if code(error) == "RequestTimeTooSkewed":
        return f"the clocks of {name} and of the operator differ too much"
    if code(error) in _REFUSED and dependency == "store":
        return (
            f"S3 lets the operator's key not at bucket {what} ({reason}): it exists and belongs to another account, or "
            "the key lacks a permission; choose another spec.storage.bucket, or grant it"
        )
    if code(error) in _REFUSED:
        return f"IAM lets the operator's key not at user {what} ({reason}): grant it what the docs list"
    if code(error) in _OTHER_REGION:
        return f"bucket {what} is not in the region that MEDIA_OPERATOR_S3_REGION names ({reason})"
    if code(error) == "InvalidBucketName":
        return f"S3 takes no bucket called {what}: choose another spec.storage.bucket"
    if code(error) == "TooManyBuckets":
        return "the account has as many buckets as it may have: ask its provider for more"
    if dependency == "iam" and code(error) in _NO_SUCH_API:
        return (
            f"what answers at {endpoint} is no IAM ({reason}): for a server without one set "
            "MEDIA_OPERATOR_S3_CREDENTIALS=shared"
        )
    return f"{name} answered {reason}"


@functools.cache
def _session() -> boto3.session.Session:
    """One for all: it parses the service descriptions once."""
    return boto3.session.Session()
