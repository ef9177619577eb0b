"""Signed URLs to the objects of a folder store: `{public_url}/objects/{key}?...`. They lead to the api itself.

The signature is HMAC-SHA256 over key, time, type and disposition, so none of them can be changed. The api calls
`FolderUrls.verify` before it serves one. The parameters have the names of S3's presigned URLs, which the API's
published page shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from media_core.auth import url_signatures
from media_core.store.base import SignedUrl, tenant_prefix

_SIGNED = ("X-Amz-Date", "X-Amz-Expires", "response-content-type", "response-content-disposition")
_SIGNATURE = "X-Amz-Signature"
_SIGNED_AT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a signed URL allows: reading this object, with this type and disposition."""

    key: str
    content_type: str
    content_disposition: str


class FolderUrls:
    """Signs and verifies the URLs of one tenant's objects. Parameters as of `FolderStore`. Does no I/O."""

    def __init__(self, tenant_id: str, signing_key: bytes, public_url: str) -> None:
        if signing_key and len(signing_key) < 32:
            raise ValueError("the signing key of a folder store has at least 32 bytes")
        self._prefix = tenant_prefix(tenant_id)
        self._signing_key = signing_key
        self._public_url = public_url.rstrip("/")

    def sign(self, allowed: SignedRequest, now: datetime, seconds: int) -> SignedUrl:
        """A URL that is valid for so many seconds from `now` (aware) on."""
        begins = int(now.timestamp())
        at = datetime.fromtimestamp(begins, UTC).strftime(_SIGNED_AT)
        signed = (at, str(seconds), allowed.content_type, allowed.content_disposition)
        signature = self._signature(allowed.key, *signed)
        query = urlencode(dict(zip(_SIGNED, signed, strict=True)) | {_SIGNATURE: signature})
        url = f"{self._public_url}/objects/{allowed.key}?{query}"
        return SignedUrl(url, datetime.fromtimestamp(begins + seconds, UTC))

    def verify(self, key: str, query: Mapping[str, str], now: datetime) -> SignedRequest:
        """What the URL `/objects/{key}?{query}` allows at `now` (aware).

        Raises Refused `signature_invalid` unless this store's key signed exactly this, `signature_expired` if the URL
        has expired. Does not check whether the object exists.
        """
        at, seconds, content_type, disposition = signed = [query.get(name, "") for name in _SIGNED]
        wanted = self._signature(key, *signed)
        # A signature over another tenant's key is never accepted, even if both stores have the same signing key.
        if not key.startswith(self._prefix):
            raise url_signatures.invalid()
        url_signatures.check(wanted, query.get(_SIGNATURE, ""))
        signed_at = datetime.strptime(at, _SIGNED_AT).replace(tzinfo=UTC)
        url_signatures.check_time(int(signed_at.timestamp()) + int(seconds), now)
        return SignedRequest(key, content_type, disposition)

    def _signature(self, *signed: str) -> str:
        if not self._signing_key:
            raise RuntimeError("this folder store was opened without a signing key")
        return url_signatures.signature(self._signing_key, *signed)
