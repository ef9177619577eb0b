"""`python -m media_operator.helm_hooks.uninstall_check RELEASE NAMESPACE REVISION`: `helm uninstall` runs it first.

Without the operator tenants keep serving, but nothing manages them. A tenant with `deletionPolicy: Delete` cannot be
deleted any more: its finalizer waits for an operator. So the uninstallation is refused while there are tenants.

Helm notes the release as "uninstalling" before this check, and then refuses to upgrade it. So the refusal says how to
go back.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from media_operator.cluster import kinds
from media_operator.cluster.kube import Kube, KubeError, NotFound
from media_operator.settings import OperatorSettings

NAMED = 20
"""At most so many MediaTenants are named; the number of all is given."""


async def remaining(kube: Kube, namespaces: Sequence[str]) -> list[str]:
    """`namespace/name` of each MediaTenant in these namespaces, or without any in all. Without the CRD there is none.

    Raises KubeError.
    """
    found = []
    for namespace in namespaces or (None,):
        try:
            tenants, _ = await kube.list(kinds.MEDIA_TENANT, namespace)
        except NotFound:
            return []
        found += [f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in tenants]
    return sorted(found)


def refusal(names: Sequence[str], release: str, namespace: str, revision: str) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    number = "1 MediaTenant is" if len(names) == 1 else f"{len(names)} MediaTenants are"
    return f"""Not uninstalled: {number} still there: {", ".join(names[:NAMED])}{more}.
Without the operator nothing manages them, and a MediaTenant with deletionPolicy: Delete can never be deleted.
To delete them first (Retain, the default, keeps their data; a later tenant of the same name finds it again):
  kubectl delete mediatenants --all --namespace TENANTS_NAMESPACE
To leave them to an operator that is installed later:
  helm uninstall {release} --namespace {namespace} --no-hooks
To keep this release, which Helm now takes for partly removed:
  helm rollback {release} {revision} --namespace {namespace}"""


async def check(namespaces: Sequence[str], release: str, namespace: str, revision: str) -> int:
    """Exit status: 0 if there is no MediaTenant, else 1 with the reason on stderr."""
    async with await Kube.connect() as kube:
        try:
            names = await remaining(kube, namespaces)
        except KubeError as error:
            print(f"Not uninstalled: the MediaTenants cannot be listed: {error}", file=sys.stderr)
            return 1
    if names:
        print(refusal(names, release, namespace, revision), file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(check(OperatorSettings().namespaces, *sys.argv[1:])))
