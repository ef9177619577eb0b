"""Encryption at rest by S3 itself: which kind every write asks for, where a bucket's policy wants it named."""

from __future__ import annotations

from typing import Any, Literal

Encryption = Literal["AES256", "aws:kms"]
WRITES = ("PutObject", "CopyObject", "CreateMultipartUpload")
"""S3's operations that make an object, and so may name an encryption. Parts have that of their upload."""


def checked(encryption: str | None, kms_key_id: str | None) -> None:
    """Raises ValueError for a key without `aws:kms`."""
    if kms_key_id and encryption != "aws:kms":
        raise ValueError("a KMS key needs the encryption aws:kms")


def name_in_writes(client: Any, encryption: Encryption | None, kms_key_id: str | None) -> None:
    """Has a boto3 client name it in every write. Without an encryption nothing is named."""
    if encryption is None:
        return
    named = {"ServerSideEncryption": encryption, **({"SSEKMSKeyId": kms_key_id} if kms_key_id else {})}

    def name(params: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**named, **params}

    for operation in WRITES:
        client.meta.events.register(f"provide-client-params.s3.{operation}", name)
