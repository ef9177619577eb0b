"""A tenant's objects on a cluster, as plain dicts: pure functions of its spec, the settings and its secrets.

An object has exactly the fields that we set, and none that the API server would fill in. All other fields belong to
others (an autoscaler's replicas, a mesh's sidecar). `matches` tells without a write whether an object is as wanted.
"""

from media_operator.render.drift import HANDOVER, in_place_of, matches, replicas_handed_over, stamped
from media_operator.render.jobs import job
from media_operator.render.network import endpoint
from media_operator.render.objects import Inputs, with_further
from media_operator.render.secrets import (
    DATABASE_URL,
    S3_FILE,
    S3_KEY_ID,
    S3_SECRET,
    SIGNING_KEYS,
    credentials_hash,
    credentials_secret,
    needed,
    secret_is_intact,
    secret_values,
    signing_keys_secret,
)
from media_operator.render.workloads import workloads

__all__ = [
    "DATABASE_URL",
    "HANDOVER",
    "S3_FILE",
    "S3_KEY_ID",
    "S3_SECRET",
    "SIGNING_KEYS",
    "Inputs",
    "credentials_hash",
    "credentials_secret",
    "endpoint",
    "in_place_of",
    "job",
    "matches",
    "needed",
    "replicas_handed_over",
    "secret_is_intact",
    "secret_values",
    "signing_keys_secret",
    "stamped",
    "with_further",
    "workloads",
]
