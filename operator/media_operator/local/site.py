"""The folders of `make run`, so that a second run finds the first one's data.

postgres/  clamd/  logs/  buckets/<bucket>/          parts of the machine
<tenant>/signing-keys.json  jwks.json  secrets.json  parts of one tenant, mode 0700
<tenant>/webhooks/<name>/<key>                       secrets of its webhooks, which a person puts there
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from media_core.listening import EVERY, EVERY_IPV4
from media_operator.tenant.spec import MediaTenant

RESERVED = ("postgres", "clamd", "logs", "buckets")
"""Names of folders in the run folder. No tenant can have one of them as its id."""


@dataclass(frozen=True)
class Site:
    """Run folder and addresses of the tenant."""

    folder: Path
    host: str
    port: int
    metrics_port: int

    @property
    def base(self) -> str:
        """For this machine."""
        return f"http://{'127.0.0.1' if self.host in (EVERY, EVERY_IPV4) else self.host}:{self.port}"

    def bucket(self, tenant: MediaTenant) -> Path:
        return self.folder / "buckets" / tenant.bucket

    def of(self, tenant: MediaTenant) -> Path:
        return self.folder / tenant.tenant_id

    def mark(self, tenant: MediaTenant) -> Path:
        """File of the owner mark. It lies beside the bucket: the bucket holds only objects."""
        return self.bucket(tenant).with_name(self.bucket(tenant).name + ".owner")

    def signing_keys(self, tenant: MediaTenant) -> Path:
        return self.of(tenant) / "signing-keys.json"

    def jwks(self, tenant: MediaTenant) -> Path:
        return self.of(tenant) / "jwks.json"

    def webhook_secrets(self, tenant: MediaTenant) -> Path:
        """A file for each `secretRef`: `name/key`."""
        return self.of(tenant) / "webhooks"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"
