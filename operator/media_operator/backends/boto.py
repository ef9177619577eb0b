"""boto3 from asyncio: calls run in a few threads with time limits, and each error becomes one sentence.

A sentence names the operation, the server's error code and the settings to look at. It does not repeat the server's
text, which may quote the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from media_core.errors import Unavailable
from media_core.store import redirects
from media_core.store.encryption import name_in_writes
from media_operator.backends.breaker import RequestRefused
from media_operator.settings import StoreAdminSettings

_P = ParamSpec("_P")
_T = TypeVar("_T")

Dependency = Literal["store", "iam", "sts"]

THREADS = 8
CONNECT_TIMEOUT = 3
ANSWER_TIMEOUT = 10
"""Seconds for which a server may be silent."""
ATTEMPTS = 2

BAD_KEY = {"InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch", "AuthFailure", "ExpiredToken"}
_REFUSED = {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "UnauthorizedAccess", "Forbidden", "403"}
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_REGION = "x-amz-bucket-region"
_NO_SUCH_API = {"NotImplemented", "MethodNotAllowed", "InvalidAction", "UnknownOperationException", "405", "501"}
_NOT_VERIFIED = re.compile(r"certificate verify failed: (.+?) \(_ssl")
_NO_SUCH_API |= {"MissingParameter"}  # MinIO: its STS answers in place of IAM


class NoSuchApi(Unavailable):
    """The server answers, and does not have the API at all."""


class Threads:
    """Runs blocking calls in a pool of its own: asyncio's is small, and other blocking calls share it."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(THREADS, name)

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(work, *args, **kwargs))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def open_client(service: Literal["s3", "iam", "sts"], settings: StoreAdminSettings) -> Any:
    """A client with the operator's key. Makes no request.

    Without a key in the settings boto3 looks for one where AWS puts it: IRSA's web identity, Pod Identity.
    """
    endpoints = {"s3": settings.endpoint, "iam": settings.iam_endpoint, "sts": settings.sts_endpoint}
    client = _session().client(
        service,
        endpoint_url=endpoints[service],
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id or None,
        aws_secret_access_key=settings.secret_access_key.get_secret_value() or None,
        config=Config(
            s3={"addressing_style": "path"},
            signature_version="s3v4" if service == "s3" else None,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=ANSWER_TIMEOUT,
            max_pool_connections=THREADS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            proxies={} if _is_near(endpoints[service]) else None,
        ),
    )
    if service == "s3":
        name_in_writes(client, settings.sse, settings.sse_kms_key_id)
        redirects.follow_none(client)
    return client


def _is_near(endpoint: str | None) -> bool:
    """Whether its host is an address in a network of NO_PROXY. Tenants' pods know these, botocore does not."""
    try:
        address = ipaddress.ip_address(urlsplit(endpoint or "").hostname or "")
    except ValueError:
        return False
    for each in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(","):
        with contextlib.suppress(ValueError):
            if address in ipaddress.ip_network(each.strip(), strict=False):
                return True
    return False


@contextlib.contextmanager
def outages(dependency: Dependency, settings: StoreAdminSettings, what: str = "") -> Iterator[None]:
    """Turns boto3's errors into `Unavailable(dependency, sentence)`; `RequestRefused` if it is only about this request.

    `what`: the bucket, user or role of the request.
    """
    try:
        yield
    except ClientError as error:
        for_all = BAD_KEY | _NO_SUCH_API | {"RequestTimeTooSkewed"}
        if dependency == "sts":  # all tenants have one role
            for_all = for_all | _REFUSED | {"ValidationError"}
        about_all = code(error) in for_all or _of_the_operator(error)
        kind: type[Unavailable] = RequestRefused if is_refusal(error) and not about_all else Unavailable
        if dependency != "store" and code(error) in _NO_SUCH_API:
            kind = NoSuchApi
        raise kind(dependency, _sentence(dependency, error, what)) from None
    except (NoCredentialsError, CredentialRetrievalError, MetadataRetrievalError) as error:
        sentence = (
            f"the operator has no key for {_NAMES[dependency]} ({type(error).__name__}): give it one "
            f"(MEDIA_OPERATOR_S3_ACCESS_KEY_ID), or give its service account a role of AWS {_SEE}"
        )
        raise Unavailable(dependency, sentence) from None
    except (BotoCoreError, ResponseParserError) as error:
        endpoints = {"store": settings.endpoint, "iam": settings.iam_endpoint, "sts": settings.sts_endpoint}
        endpoint = endpoints[dependency] or "AWS"
        sentence = f"{_NAMES[dependency]} at {endpoint} does not answer ({type(error).__name__})"
        if isinstance(error, SSLError):
            sentence = f"{_NAMES[dependency]} at {endpoint} does not speak TLS as we do: perhaps its port is for http"
            if found := _NOT_VERIFIED.search(str(error)):
                sentence = f"the certificate of {_NAMES[dependency]} at {endpoint} is not accepted: {found.group(1)}"
        elif isinstance(error, ConnectionClosedError) and endpoint.startswith("http:"):
            sentence += ": perhaps its port is for https"
        raise Unavailable(dependency, sentence) from None


def code(error: ClientError) -> str:
    """The server's error code; for an answer without a body, the HTTP status."""
    return str(error.response.get("Error", {}).get("Code") or status(error))


def status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _headers(error: ClientError) -> Mapping[str, str]:
    return cast("Mapping[str, str]", error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}))


def is_refusal(error: ClientError) -> bool:
    """Whether the server will never do this. Other errors (5xx, throttling, a race) may be tried again."""
    if code(error) in ("RequestTimeout", "OperationAborted", "SlowDown"):
        return False
    return status(error) == 501 or (400 <= status(error) < 500 and status(error) not in (408, 429))


def _of_the_operator(error: ClientError) -> bool:
    """Whether it was asked for the operator's own key: boto3 does that within the request that needs the key."""
    return error.operation_name == "AssumeRoleWithWebIdentity"


def _is_of_no_api(error: ClientError) -> bool:
    """Whether the answer has no error code, and does not ask for a later try. S3, IAM and STS give a code to all
    requests but HEAD."""
    return code(error).isdecimal() and status(error) < 500 and is_refusal(error) and error.operation_name[:4] != "Head"


_NAMES = {"store": "S3", "iam": "IAM", "sts": "STS"}
_ENDPOINTS = {
    "store": "MEDIA_OPERATOR_S3_ENDPOINT",
    "iam": "MEDIA_OPERATOR_S3_IAM_ENDPOINT",
    "sts": "MEDIA_OPERATOR_S3_STS_ENDPOINT",
}
_SEE = "(docs/install.md, S3 on EKS)"


def _sentence(dependency: Dependency, error: ClientError, what: str) -> str:
    name, reason, endpoint = _NAMES[dependency], f"{code(error)} to {error.operation_name}", _ENDPOINTS[dependency]
    if _of_the_operator(error):
        return (
            f"AWS does not give the operator the role of its service account ({reason}): check the annotation "
            f"eks.amazonaws.com/role-arn and the role's trust policy {_SEE}"
        )
    if code(error) in BAD_KEY:
        return (
            f"{name} does not accept the operator's key ({reason}): check MEDIA_OPERATOR_S3_ACCESS_KEY_ID, its secret, "
            f"and {endpoint}"
        )
    if code(error) == "RequestTimeTooSkewed":
        return f"the clocks of {name} and of the operator differ too much"
    if _is_of_no_api(error) and (dependency == "store" or code(error) not in _NO_SUCH_API):
        return (
            f"what answers at {endpoint} is not {name}, but perhaps a web server, a console or a proxy, or it speaks "
            f"https ({reason}): check {endpoint}"
        )
    if code(error) == "AccessDenied" and error.operation_name == "CreateBucket":
        return (
            f"S3 does not let the operator's key make bucket {what} ({reason}): grant it s3:CreateBucket, or make the "
            "bucket yourself, empty"
        )
    if code(error) in _REFUSED and dependency == "store":
        return (
            f"S3 denies the operator's key access to bucket {what} ({reason}): the bucket belongs to another account, "
            "or the key lacks a permission; choose another spec.storage.bucket, or grant the permission"
        )
    if code(error) in _REFUSED and dependency == "sts":
        return (
            f"STS does not let the operator assume role {what} ({reason}): the role has to exist, its trust policy has "
            f"to name the operator's own role or user, and that has to be allowed sts:AssumeRole {_SEE}; MinIO says "
            "the same of a wrong key"
        )
    if code(error) == "ValidationError" and dependency == "sts":
        return (
            f"STS refuses the request for role {what} ({reason}): check MEDIA_OPERATOR_S3_ROLE_ARN, and that "
            "MEDIA_OPERATOR_S3_ROLE_SECONDS is no longer than the role's maximum session duration, which is 3600 for "
            "a role that is assumed by another role"
        )
    if dependency == "sts" and code(error) in _NO_SUCH_API:
        return f"the server at {endpoint} has no STS API that knows AssumeRole ({reason}): check {endpoint}"
    if code(error) in _REFUSED:
        return (
            f"IAM denies the operator's key access to user {what} ({reason}): grant it the permissions that "
            "docs/install.md lists"
        )
    if 300 <= status(error) < 400 and code(error) != "PermanentRedirect" and _REGION not in _headers(error):
        return f"{name} redirects to another address ({reason}), perhaps to https: set {endpoint} to that address"
    if code(error) in _OTHER_REGION:
        return f"bucket {what} is not in the region that MEDIA_OPERATOR_S3_REGION names ({reason})"
    if code(error) in ("InvalidLocationConstraint", "InvalidRegion"):
        return f"S3 does not know the region that MEDIA_OPERATOR_S3_REGION names ({reason}): name one of its own"
    if code(error) == "InvalidBucketName":
        return f"S3 refuses the bucket name {what}: choose another spec.storage.bucket"
    if code(error) == "TooManyBuckets":
        return "the account has reached its limit of buckets: ask the provider for more"
    if dependency == "iam" and code(error) in _NO_SUCH_API:
        return (
            f"the server at {endpoint} has no IAM API ({reason}): set MEDIA_OPERATOR_S3_CREDENTIALS=shared, or "
            f"{endpoint} to the address of IAM"
        )
    return f"{name} answered {reason}"


@functools.cache
def _session() -> boto3.session.Session:
    """One for all clients, so that the service descriptions are parsed once."""
    return boto3.session.Session()


def attempt(work: Callable[..., Any], **request: Any) -> dict[str, Any]:
    """The answer; empty if the server refuses for any reason, except that the bucket is gone."""
    try:
        answer: dict[str, Any] = work(**request)
    except ClientError as error:
        if not is_refusal(error) or code(error) == "NoSuchBucket":
            raise
        return {}
    return answer


def if_known(work: Callable[..., Any], **request: Any) -> dict[str, Any]:
    """The answer; empty if the server does not know this request. Raises if it denies it (403, 404)."""
    try:
        answer: dict[str, Any] = work(**request)
    except ClientError as error:
        if not is_refusal(error) or status(error) in (403, 404):
            raise
        return {}
    return answer
