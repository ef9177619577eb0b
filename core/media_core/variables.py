"""The environment variables that our programs read. The programs do not know each other's settings, and each is started
with variables of others: so all names are here, and a test compares them with the settings classes.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Final

import structlog

PREFIX: Final = "MEDIA_"

_NAMES: Final[Mapping[str, str]] = {
    "": """DATABASE_POOL DATABASE_PREPARE DATABASE_URL HOST JWKS_FILE METRICS_PORT OIDC_AUDIENCE OIDC_CLAIM_ROOMS
        OIDC_CLAIM_SCOPES OIDC_CLAIM_SUBJECT OIDC_CLAIM_TENANT_ROLE OIDC_ISSUER OIDC_JWKS_URI PAGE PAGE_FOLDER
        PAGE_OIDC_CLIENT_ID PAGE_OIDC_ORIGINS PAGE_OIDC_SCOPES PORT PUBLIC_URL RESYNC_SECONDS RUN_FOLDER
        SIGNATURES_MIRROR STORE STORE_FOLDER STORE_SIGNING_KEY TENANT_ID WEBHOOKS WEBHOOK_ALLOW_NETWORKS
        WEBHOOK_SECRETS""",
    "API_": """BODY_IDLE_SECONDS HOST METRICS_HOST METRICS_PORT PORT PROCESSES SHUTDOWN_SECONDS SIGNED_URL_MAX_SECONDS
        TRUSTED_PROXIES""",
    "CLAMD_": "AT_ONCE CONNECT_TIMEOUT HEURISTICS HOST MAX_BYTES PORT REPLY_TIMEOUT SCAN_TIMEOUT",
    "CORS_": "MAX_AGE_SECONDS ORIGINS",
    "DECODING_": "PROCESSES",
    "LOG_": "FORMAT LEVEL",
    "OPERATOR_": """ANNOTATIONS API_IMAGE API_POD_ANNOTATIONS API_POD_LABELS API_PRIORITY_CLASS CANARY_SECONDS
        CANARY_TIMEOUT CLAMD_AT_ONCE CLAMD_HEURISTICS CLAMD_HOST CLAMD_PORT CLUSTER_ISSUER CONCURRENCY GATEWAY
        GATEWAY_REQUEST_TIMEOUT HTTPS_PROXY HTTP_HOST HTTP_PORT HTTP_PROXY IDENTITY IMAGE_PULL_POLICY
        IMAGE_PULL_SECRETS INGRESS_ANNOTATIONS INGRESS_CLASS JOB_DEADLINE_SECONDS JOB_PRIORITY_CLASS JOB_RUNTIME_CLASS
        JOB_TTL_SECONDS KUEUE_QUEUE LABELS LEASE_NAME LEASE_SECONDS LOG_LEVEL MAX_JOBS NAMESPACE NODE_SELECTOR NO_PROXY
        PUBLIC_SCHEME RELIST_SECONDS RESYNC_SECONDS RETENTION_EVENT_DAYS RETENTION_FOUND_DAYS RETENTION_FOUND_FEW
        RETENTION_ORPHANS_FEW RETENTION_ORPHAN_DAYS RETENTION_ORPHAN_SHARE RUN_AS_USER SWEEP_RESOURCES TOLERATIONS
        TRUST_CONFIG_MAP TRUST_KEY USAGE_SECONDS WATCH_NAMESPACES WEBHOOK_ALLOW_NETWORKS WORKER_IMAGE
        WORKER_POD_ANNOTATIONS WORKER_POD_LABELS""",
    "OPERATOR_DATABASE_": "CONNECTION_LIMIT POOL TENANT_ADDRESS URL",
    "OPERATOR_S3_": """ACCESS_KEY_ID CREDENTIALS ENDPOINT IAM_ENDPOINT PUBLIC_ENDPOINT REGION ROLE_ARN ROLE_SECONDS
        SECRET_ACCESS_KEY SSE SSE_KMS_KEY_ID STS_ENDPOINT""",
    "RETENTION_": "EVENT_DAYS FOUND_DAYS FOUND_FEW ORPHANS_FEW ORPHAN_DAYS ORPHAN_SHARE",
    "S3_": """ACCESS_KEY_ID BUCKET CREDENTIALS_FILE ENDPOINT PUBLIC_ENDPOINT REGION SECRET_ACCESS_KEY SESSION_TOKEN SSE
        SSE_KMS_KEY_ID""",
    "TRANSCRIPTION_": "MAX_SECONDS SYNC_SECONDS",
    "UPLOAD_": "DRAFT HOURS",
    "WHISPER_": "CHUNK_SECONDS COMPUTE_TYPE CPU_THREADS DEVICE DOWNLOAD_ROOT LOCAL_FILES_ONLY MODEL",
    "WORKER_": "LEASE_SECONDS LINGER_SECONDS MAX_JOBS MAX_SECONDS POLL_SECONDS",
}
SETTINGS: Final = frozenset(f"{PREFIX}{group}{name}" for group, names in _NAMES.items() for name in names.split())
_TESTS: Final = """BASE CLUSTER_HOME KEEP_CLUSTER KNOWN OUTAGE_SECONDS SCHEMATHESIS_EXAMPLES SCHEMATHESIS_OPTIONS
    SCREENSHOTS SEARCH_HOURS SOAK_SECONDS TEST_CHROMIUM TEST_S3_ACCESS_KEY TEST_S3_BUCKET TEST_S3_ENDPOINT
    TEST_S3_REGION TEST_S3_SECRET_KEY TOKEN TOOLS_CACHE UPDATE_GOLDEN"""
"""What tests and tools read."""
_KNOWN: Final = SETTINGS | {f"{PREFIX}{name}" for name in _TESTS.split()}

_log = structlog.stdlib.get_logger("media.settings")


def unknown(environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The variables that begin as ours do, and that nothing of ours reads. As in settings, case does not count."""
    for name in sorted(os.environ if environment is None else environment):
        if name.upper().startswith(PREFIX) and name.upper() not in _KNOWN:
            yield name


def warn_of_unknown() -> None:
    """One line in the log for each unknown variable: else a misspelt setting would be its default without a word."""
    for name in unknown():
        _log.warning("unknown_variable", variable=name, detail=_advice(name))


def _advice(name: str) -> str:
    import difflib  # here, since mostly nothing is misspelt

    known = {one.removeprefix(PREFIX): one for one in sorted(SETTINGS)}
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, n=1, cutoff=0.7)
    return "nothing reads it" + (f": did you mean {known[near[0]]}?" if near else "; docs/configuration.md names all")
