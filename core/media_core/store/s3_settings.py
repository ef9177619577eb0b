"""Where a tenant's bucket is, and with which key. Without the driver, whose libraries cost memory."""

from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from media_core.settings import EnvironmentSettings
from media_core.store.credentials import FixedKey, KeyFile, S3Key, S3Keys
from media_core.store.encryption import Encryption, checked


class S3Settings(EnvironmentSettings):
    """Environment variables `MEDIA_S3_*`."""

    model_config = SettingsConfigDict(env_prefix="MEDIA_S3_")

    endpoint: str = Field(pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of the S3 service for this process, e.g. `http://versitygw.storage.svc:7070`. Requests are path-style."""

    public_endpoint: str | None = Field(None, pattern=r"^https?://[^/@?#\s]+/?$")
    """URL of the same service for clients; signed URLs begin with it. Default: `endpoint`."""

    bucket: str = Field(min_length=3, max_length=63)
    """The tenant's bucket. It must exist."""

    region: str = "us-east-1"
    """Region in signatures. Most servers other than AWS accept any."""

    access_key_id: str = ""
    """Access key. It must be allowed to get, put, delete and list under `tenant/{tenant_id}/`, and to list and abort
    multipart uploads. Needed unless `credentials_file` is given."""

    secret_access_key: SecretStr = SecretStr("")
    """Secret of the access key."""

    session_token: SecretStr | None = None
    """Session token of a temporary access key. It is not renewed: see `credentials_file`."""

    credentials_file: Path | None = None
    """File with the key, in place of the three above, for temporary keys that somebody renews. It has the form of AWS's
    `credential_process`: JSON with `Version`, `AccessKeyId`, `SecretAccessKey`, `SessionToken`, `Expiration`. It is
    read again when it has changed. Signed URLs end with the key at the latest."""

    sse: Encryption | None = None
    """Encryption at rest that every write names (`x-amz-server-side-encryption`): `AES256` or `aws:kms`. Default: none
    is named, and the bucket's own default holds."""

    sse_kms_key_id: str | None = None
    """Key of KMS for `aws:kms`. Default: the one that S3 uses by itself."""

    @model_validator(mode="after")
    def _key_and_encryption_fit(self) -> "S3Settings":
        checked(self.sse, self.sse_kms_key_id)
        given, secret = self.access_key_id, self.secret_access_key.get_secret_value()
        if self.credentials_file is not None and (given or secret or self.session_token):
            raise ValueError("MEDIA_S3_CREDENTIALS_FILE stands in place of the access key: give one of the two")
        if self.credentials_file is None and not (given and secret):
            names = "MEDIA_S3_ACCESS_KEY_ID and MEDIA_S3_SECRET_ACCESS_KEY"
            raise ValueError(f"{names} are needed, or MEDIA_S3_CREDENTIALS_FILE")
        return self

    def keys(self) -> S3Keys:
        if self.credentials_file is not None:
            return KeyFile(self.credentials_file)
        token = self.session_token.get_secret_value() if self.session_token else None
        return FixedKey(S3Key(self.access_key_id, self.secret_access_key.get_secret_value(), token))
