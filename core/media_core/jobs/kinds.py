"""The kinds of jobs: an entry holds all that the queue, the sweep, the workers and the operator know of a kind.

A new kind needs an entry here, a handler in the workers, and a caller of `queue.enqueue`.
"""

from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, Literal, LiteralString


@dataclass(frozen=True)
class JobKind:
    name: str
    handler: str
    """`module:function` in the workers. The function takes their settings and returns the handler. Only the worker that
    drains this kind imports it, so a scan worker never loads a speech model."""
    max_attempts: int
    """How often a job is tried before it ends as failed. An outage is no attempt."""
    kept: timedelta
    """How long an ended job's row stays, and can be read by its owner."""
    jobs_at_once: int = 1
    """How many jobs one worker handles at the same time."""
    jobs_a_worker: int = 1
    """How many ready jobs justify one more worker: scans take moments, a transcription takes minutes to hours."""
    section: Literal["scan", "transcription"] | None = None
    """The section of a MediaTenant's `spec` whose `enabled` and `maxParallel` apply. None: the kind is always on."""
    max_workers: int = 2
    """Most workers of a tenant at a time, for a kind without a section."""
    grace_seconds: int = 30
    """How long a worker may take to hand its jobs back after SIGTERM."""
    resources: MappingProxyType[str, Any] | None = None
    """The worker container's resources, as Kubernetes writes them. None: they follow from the tenant's `spec`."""
    publishes_result: bool = True
    """Whether the API shows the fields of a completed job's result."""
    on_failure: LiteralString | None = None
    """SQL that is run when a job ends without a result, so that its content does not stay `pending` for ever.

    Parameters: `sha256` of the content; `detail`: the reason.
    """

    @property
    def switch(self) -> str | None:
        """The column of `policy` that turns this kind on and off."""
        return self.section and f"{self.section}_enabled"


_WEEK: Final = timedelta(days=7)

JOB_KINDS: Final = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            JobKind(
                "scan",
                handler="media_workers.scanning.scan:scanner",
                max_attempts=8,
                kept=_WEEK,
                jobs_at_once=64,
                jobs_a_worker=20,
                section="scan",
                resources=MappingProxyType(
                    {"requests": {"cpu": "100m", "memory": "160Mi"}, "limits": {"memory": "512Mi"}}
                ),
                on_failure="""
                    UPDATE blob SET scan_status = 'error', scan_detail = %(detail)s, scanned_at = now()
                    WHERE sha256 = %(sha256)s AND scan_status IN ('pending','error')
                """,
            ),
            JobKind(
                "transcribe",
                handler="media_workers.speech.transcribe:transcriber",
                max_attempts=4,
                kept=timedelta(days=90),
                section="transcription",
                grace_seconds=60,
            ),
            JobKind(
                "thumbnail",
                handler="media_workers.thumbnail:thumbnailer",
                max_attempts=3,
                kept=_WEEK,
                jobs_a_worker=10,
                publishes_result=False,
                # One decoding child.
                resources=MappingProxyType(
                    {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
                ),
                on_failure="""
                    UPDATE blob SET thumbnail_status = 'failed', details = details ||
                        CASE WHEN %(code)s IN ('unsupported', 'corrupt', 'too_large', 'memory')
                        THEN jsonb_build_object('no_thumbnail', %(detail)s::text) ELSE '{}' END
                    WHERE sha256 = %(sha256)s AND thumbnail_status = 'pending' AND lost_at IS NULL
                """,
            ),
        )
    }
)
KINDS: Final = tuple(JOB_KINDS)
"""Their names, in the order in which kinds take turns."""
