"""The platform installed from its chart on the tests' kind cluster."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.node import images
from tests.cluster.node.images import ROOT
from tests.cluster.node.kind import Cluster
from tests.cluster.node.namespace import PLATFORM, Namespace

CHART = ROOT / "charts" / "media-platform"
RELEASE = "media"
OPERATOR = "app.kubernetes.io/component=operator"
HERE = {"image.registry": "localhost", "image.tag": "dev", "image.pullPolicy": "IfNotPresent"}
FAST = {
    "operator.canarySeconds": "3600",
    "workers.image.repository": f"media-{images.WITH_MODEL}",
    "installCheck.transcription.model": "/models/tiny-words",  # no model hub is reached from here
}


@dataclass(frozen=True)
class Installation:
    """The chart's release in its namespace."""

    cluster: Cluster

    @property
    def own(self) -> Namespace:
        return Namespace(self.cluster, PLATFORM)

    def install(self, chart: Path = CHART, **values: str) -> None:
        """Installs or upgrades, and returns when everything that the chart brings is ready."""
        settings = {"dev.enabled": "true", **HERE, **FAST, **values}
        arguments = [argument for name, value in settings.items() for argument in ("--set", f"{name}={value}")]
        try:
            self.cluster.helm(
                *("upgrade", "--install", RELEASE, str(chart), "--namespace", PLATFORM, "--create-namespace"),
                *("--wait", "--timeout", "240s", *arguments),
            )
        except subprocess.CalledProcessError as failed:
            raise AssertionError(f"{failed.stderr}\n{self.own.describe('deployments')}") from None

    @contextlib.contextmanager
    def namespace(self, name: str) -> Iterator[Namespace]:
        """A new one for tenants; it is gone, and they with it, before the next one may claim their ids."""
        with Namespace.new(self.cluster, name) as namespace:
            try:
                yield namespace
            finally:
                namespace.empty()
        self.cluster.kubectl("wait", f"namespace/{namespace.name}", "--for=delete", "--timeout=120s")

    def python(self, script: str, given: Any = None) -> Any:
        """What a script prints as JSON in the operator's pod, which has boto3 and psycopg; `given` is its input."""
        pod = self.own.kubectl("get", "pods", "--selector", OPERATOR, "--output", "name").split()[0]
        said = self.own.kubectl("exec", "--stdin", pod, "--", "python3", "-c", script, given=json.dumps(given))
        return json.loads(said)

    def psql(self, query: str) -> list[str]:
        """Rows of one column, as the superuser of the chart's own PostgreSQL."""
        pod = self.own.kubectl("get", "pods", "--selector", "app.kubernetes.io/component=postgres", "--output", "name")
        said = self.own.kubectl(
            "exec", pod.split()[0], "--", "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", query
        )
        return [line for line in said.splitlines() if line]

    def schemas(self) -> list[str]:
        return self.psql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant\\_%'")

    def buckets(self) -> list[str]:
        """Of tenants, in the S3 that the operator works on, as the operator itself sees it."""
        return [name for name in self.python(_LIST_BUCKETS) if name.startswith("media-")]


_LIST_BUCKETS = """
import json
from media_operator.backends.boto import open_client
from media_operator.settings import StoreAdminSettings
print(json.dumps([each["Name"] for each in open_client("s3", StoreAdminSettings()).list_buckets()["Buckets"]]))
"""
