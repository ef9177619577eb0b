"""Annotations by which a person decides something about one MediaTenant, once. They are no part of the spec."""

from __future__ import annotations

import shlex

from media_operator.tenant.spec import GROUP, MediaTenant

ROTATE_KEYS = f"{GROUP}/rotate-keys"
"""Each new value asks for new keys, once."""
ADOPT = f"{GROUP}/adopt"
"""The value "true": a person vouches that the cluster which left bucket and schema behind is gone."""
ACCEPT_DATA = f"{GROUP}/accept-data"
"""The schema is right, and the bucket's birth is given up. The value names that birth. Of a bucket without one, or one
that is lost, it names the schema's birth, which is replaced. So it decides no later disagreement."""
UNMARKED = "unmarked"
"""The value of `ACCEPT_DATA` for a schema that was never swept, beside a bucket with content and no birth."""
PAUSED = f"{GROUP}/reconcile"
"""The value "disabled": the operator changes neither this MediaTenant nor anything that belongs to it."""
TRUST_SIGNATURE = f"{GROUP}/trust-signature"
"""Signatures, separated by commas, that are right although they find much."""
REMOVE_ORPHANS = f"{GROUP}/remove-orphans"
"""A time (ISO 8601): orphans that were first seen up to then may be removed."""


def may_adopt(tenant: MediaTenant) -> bool:
    return tenant.metadata.annotations.get(ADOPT) == "true"


def rotation_of(tenant: MediaTenant) -> str:
    return tenant.metadata.annotations.get(ROTATE_KEYS, "")


def trusted_signatures(tenant: MediaTenant) -> set[str]:
    return {each.strip() for each in tenant.metadata.annotations.get(TRUST_SIGNATURE, "").split(",")} - {""}


def how_to_annotate(tenant: MediaTenant, name: str, value: str) -> str:
    """How to set this annotation, as the end of a sentence: a command on a cluster, else the lines of the manifest."""
    at = tenant.metadata
    if not at.uid:
        return f'write into the manifest: metadata: {{annotations: {{{name}: "{value}"}}}}'
    words = ["kubectl", "--namespace", at.namespace, "annotate", "--overwrite", "mediatenant", at.name]
    return "run: " + shlex.join([*words, f"{name}={value}"])
