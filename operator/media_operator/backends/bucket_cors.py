"""Which web apps of other origins may read a bucket's signed URLs in a browser (CORS)."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from media_operator.backends.boto import ANSWER_TIMEOUT, BAD_KEY, code, if_known, is_refusal, status
from media_operator.backends.breaker import RequestRefused
from media_operator.plan.desired import BucketCors

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

EXPOSED = ("Accept-Ranges", "Content-Disposition", "Content-Length", "Content-Range", "ETag", "Last-Modified")
"""Headers of a signed URL's answer that scripts of web apps may read beside those that every script may."""

_ALLOW_ORIGINS = "media-platform-allow-origins"


class CorsRules:
    """A bucket's rules for web apps of other origins (CORS)."""

    def __init__(self, s3: S3Client, bucket: str, url: str) -> None:
        """`url`: of an object in the bucket, which may not be there; it is asked as a browser asks."""
        self._s3 = s3
        self._bucket = bucket
        self._url = url

    def allow(self, cors: BucketCors | None) -> bool | None:
        """Whether these apps may read now; None if there are none.

        Raises RequestRefused, and sets nothing, where the rules that are there may not be looked at.
        """
        before = self._rules()
        rules = [rule for rule in before if rule.get("ID") != _ALLOW_ORIGINS]
        if cors is None:
            if rules:
                if_known(self._s3.put_bucket_cors, Bucket=self._bucket, CORSConfiguration={"CORSRules": rules})
            elif before:
                if_known(self._s3.delete_bucket_cors, Bucket=self._bucket)
            return None
        rule: dict[str, Any] = {
            "ID": _ALLOW_ORIGINS,
            "AllowedOrigins": list(cors.origins),
            "AllowedMethods": ["GET", "HEAD"],
            "AllowedHeaders": ["*"],
            "ExposeHeaders": list(EXPOSED),
            "MaxAgeSeconds": cors.max_age_seconds,
        }
        if_known(self._s3.put_bucket_cors, Bucket=self._bucket, CORSConfiguration={"CORSRules": [*rules, rule]})
        kept = any(each.get("AllowedOrigins") == rule["AllowedOrigins"] for each in self._rules())
        # MinIO has no rules for a bucket. The server lets all origins read, or those of its settings.
        return kept or self._answers(cors.origins[0].replace("*", "any"))

    def _rules(self) -> list[dict[str, Any]]:
        """Empty if the server knows no such rules. What is put takes the place of all rules, those of others too."""
        try:
            found = self._s3.get_bucket_cors(Bucket=self._bucket)
        except ClientError as error:
            if status(error) == 403 and code(error) not in BAD_KEY:
                raise RequestRefused(
                    "store",
                    f"S3 does not let the operator look at the CORS rules of bucket {self._bucket} ({code(error)} to "
                    "GetBucketCors), so it sets none, which could replace rules of others: grant it s3:GetBucketCORS",
                ) from None
            if not is_refusal(error) or code(error) == "NoSuchBucket" or status(error) == 403:
                raise
            return []
        return cast("list[dict[str, Any]]", found.get("CORSRules", []))

    def _answers(self, origin: str) -> bool:
        """Whether a browser's question before a GET is answered with this origin."""
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
        request = urllib.request.Request(self._url, method="OPTIONS", headers=asked)  # noqa: S310 (S3's own address)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT) as answer:  # noqa: S310
                return answer.headers.get("Access-Control-Allow-Origin") in (origin, "*")
        except OSError:
            return False
