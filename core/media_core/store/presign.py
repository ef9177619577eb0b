"""A URL that fetches one S3 object without any header: AWS's Signature Version 4 in the query of a GET.

obstore signs no response headers. botocore's import would take 25 MB and half a second of the event loop. A test
compares the URLs of this module with botocore's.
"""

import functools
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, urlencode, urlsplit

from media_core.store.credentials import S3Key

_USUAL_PORTS = {"http": ":80", "https": ":443"}


def presigned_get(
    endpoint: str,
    bucket: str,
    key: str,
    *,
    region: str,
    signer: S3Key,
    now: datetime,
    seconds: int,
    answered_with: Mapping[str, str],
) -> str:
    """The path-style URL. `answered_with`: the answer's headers, in lower case. `now`: aware, UTC."""
    scheme, address, *_ = urlsplit(endpoint)
    path = f"/{bucket}/{quote(key)}"
    at = f"{now:%Y%m%dT%H%M%SZ}"
    scope = (f"{now:%Y%m%d}", region, "s3", "aws4_request")
    asked = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": "/".join((signer.access_key_id, *scope)),
        "X-Amz-Date": at,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
        **({"X-Amz-Security-Token": signer.session_token} if signer.session_token else {}),
        **{f"response-{name}": value for name, value in answered_with.items()},
    }
    query = urlencode(sorted(asked.items()), quote_via=quote)
    # Clients leave the usual port out of the header that is signed.
    host = address.lower().removesuffix(_USUAL_PORTS[scheme])
    request = "\n".join(("GET", path, query, f"host:{host}\n", "host", "UNSIGNED-PAYLOAD"))
    to_sign = "\n".join((asked["X-Amz-Algorithm"], at, "/".join(scope), hashlib.sha256(request.encode()).hexdigest()))
    signature = functools.reduce(_mac, (*scope, to_sign), f"AWS4{signer.secret_access_key}".encode())
    return f"{scheme}://{address}{path}?{query}&X-Amz-Signature={signature.hex()}"


def _mac(secret: bytes, message: str) -> bytes:
    return hmac.digest(secret, message.encode(), "sha256")
