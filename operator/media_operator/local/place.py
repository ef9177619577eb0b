"""Where everything of `make run` lies, so that a second run finds the first one's data.

postgres/  clamd/  logs/  buckets/<bucket>/          the machine's parts
<tenant>/signing-keys.json  jwks.json  secrets.json  what belongs to one tenant, 0700
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from media_core.listening import EVERY, EVERY_IPV4
from media_operator.tenant.spec import MediaTenant

RESERVED = ("postgres", "clamd", "logs", "buckets")
"""Names in the run folder that no tenant can have."""


@dataclass(frozen=True)
class Place:
    """Where the one tenant is served: run folder and addresses."""

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
        """Beside the bucket, not in it: objects of ours only."""
        return self.bucket(tenant).with_name(self.bucket(tenant).name + ".owner")

    def signing_keys(self, tenant: MediaTenant) -> Path:
        return self.of(tenant) / "signing-keys.json"

    def jwks(self, tenant: MediaTenant) -> Path:
        return self.of(tenant) / "jwks.json"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"
