"""No redirect of S3 is followed.

AWS redirects a request for a bucket in another region, and boto3 then asks for the bucket's region. That request is
redirected as well where something else redirects, as from http to https: boto3 asks again, without end (RecursionError,
botocore 1.44). A redirect never helps here, since every client has an endpoint.
"""

from typing import Any


def follow_none(client: Any) -> None:
    """Has a boto3 client for S3 raise ClientError for every redirect."""

    def mark(params: dict[str, Any], **_: Any) -> None:
        params["context"].setdefault("s3_redirect", {})["redirected"] = True

    client.meta.events.register("before-call.s3", mark)
