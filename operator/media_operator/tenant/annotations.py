"""What a person may say of one MediaTenant by an annotation: decisions that are made once and are not in the spec."""

from __future__ import annotations

import shlex

from media_operator.tenant.spec import GROUP, MediaTenant

ROTATE_KEYS = f"{GROUP}/rotate-keys"
"""Annotation of a MediaTenant: a value that the keys were not made for yet asks for new ones."""
ADOPT = f"{GROUP}/adopt"
"""Annotation of a MediaTenant: "true" vouches that the cluster that left its bucket and schema behind is gone."""
ACCEPT_DATA = f"{GROUP}/accept-data"
"""Annotation of a MediaTenant: the schema is right, and this memory of the bucket is given up. Its value names what is
given up, the birth that the bucket's mark says, or `UNMARKED`: so it decides no later disagreement."""
UNMARKED = "unmarked"
"""The value of `ACCEPT_DATA` for a bucket with content and without a mark."""
PAUSED = f"{GROUP}/reconcile"
"""Annotation of a MediaTenant: "disabled" makes the operator leave it, and all that belongs to it, alone."""
TRUST_SIGNATURE = f"{GROUP}/trust-signature"
"""Annotation of a MediaTenant: signatures, separated by commas, that are right although they find much."""
REMOVE_ORPHANS = f"{GROUP}/remove-orphans"
"""Annotation of a MediaTenant: objects without a row that were first seen up to this time (ISO 8601) may go."""


def may_adopt(tenant: MediaTenant) -> bool:
    return tenant.metadata.annotations.get(ADOPT) == "true"


def rotation_of(tenant: MediaTenant) -> str:
    return tenant.metadata.annotations.get(ROTATE_KEYS, "")


def trusted_signatures(tenant: MediaTenant) -> set[str]:
    return {each.strip() for each in tenant.metadata.annotations.get(TRUST_SIGNATURE, "").split(",")} - {""}


def how_to_annotate(tenant: MediaTenant, name: str, value: str) -> str:
    """How a person sets this annotation: the end of a sentence, and a command that can be pasted where there is one."""
    at = tenant.metadata
    if not at.uid:
        return f'write into the manifest: metadata: {{annotations: {{{name}: "{value}"}}}}'
    words = ["kubectl", "--namespace", at.namespace, "annotate", "--overwrite", "mediatenant", at.name]
    return "run: " + shlex.join([*words, f"{name}={value}"])
