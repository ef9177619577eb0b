"""Worker Jobs on the cluster: made for the dispatcher, counted from the cache, judged by how they ended.

The queue's rows say what is done, so a Job that fails, is evicted or meets its deadline costs time but loses no work.
Failures are counted from the finished Jobs, which the cluster keeps until their TTL. So another leader counts the same.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Literal

import structlog
from pydantic import SecretStr

from media_core.jobs.kinds import KINDS
from media_core.store import S3Settings
from media_core.store.credentials import S3Key, parsed
from media_operator import render
from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache, TenantKey, key_of, unique_names
from media_operator.cluster.kinds import Object
from media_operator.cluster.kube import AlreadyExists, Kube, KubeError
from media_operator.plan import desired
from media_operator.settings import PlatformSettings, StoreAdminSettings
from media_operator.tenant.spec import MediaTenant

FIRST_DELAY, LONGEST_DELAY = 5.0, 240.0
"""Seconds before the next Job of a kind whose last Job failed; doubled with each failure in a row. The longest is
shorter than a Job's TTL, so that the failed Jobs that it counts still exist."""

PLACE_SECONDS = 60.0
"""A Job whose pod has not started for so long no longer takes a slot of the cluster-wide limit."""

MOST_CHARACTERS = 300
"""Of an Event in a condition's message."""

_log = structlog.stdlib.get_logger("media.jobs")


def is_finished(job: Object) -> bool:
    return _ending(job) is not None


def has_failed(job: Object) -> bool:
    ending = _ending(job)
    return ending is not None and bool(ending["type"] == "Failed")


def _ending(job: Object) -> Object | None:
    conditions: list[Object] = job.get("status", {}).get("conditions", [])
    return next(
        (each for each in conditions if each["type"] in ("Complete", "Failed") and each["status"] == "True"), None
    )


async def refused_pod(kube: Kube, job: Object) -> str | None:
    """Why the API server takes no pod of this Job: a LimitRange, a quota, Pod Security Admission, a webhook. None: not
    known. Of all this a Job's status says nothing; the controller of Jobs writes an Event.
    """
    metadata = job["metadata"]
    about = f"involvedObject.uid={metadata['uid']},reason=FailedCreate"
    try:
        events, _ = await kube.list(kinds.EVENT, metadata["namespace"], fields=about)
    except KubeError:  # for instance, its role is of a version before
        return None
    newest = max(events, key=lambda event: event.get("lastTimestamp") or "", default={})
    said = " ".join(str(newest.get("message") or "").split()).removeprefix("Error creating: ").partition(". ")[0]
    return (said if len(said) <= MOST_CHARACTERS else said[: MOST_CHARACTERS - 1] + "…") or None


class WorkerJobs:
    """The worker Jobs of all tenants, at most `limit` at a time. `is_synced`: whether the cache is complete; until then
    nothing is counted."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        platform: PlatformSettings,
        store: StoreAdminSettings,
        connection_limit: int,
        is_synced: Callable[[], bool],
    ) -> None:
        self.store = store
        self.limit = platform.max_jobs
        self._kube = kube
        self._cache = cache
        self._platform = platform
        self._connection_limit = connection_limit
        self._is_synced = is_synced
        self._refusals: dict[tuple[str, str], str] = {}
        self.refusal_changed: Callable[[TenantKey], None] = lambda _: None

    # --- for the dispatcher -----------------------------------------------------------------------------------------

    def open(self) -> Mapping[tuple[TenantKey, str], tuple[int, int]] | None:
        """(tenant, kind of work) -> Jobs that have not ended, and how many of them run or were just made.

        None: not known now.
        """
        if not self._is_synced():
            return None
        unfinished, taking = Counter[tuple[TenantKey, str]](), Counter[tuple[TenantKey, str]]()
        for key, kind, job in self._all():
            if not is_finished(job):
                unfinished[key, kind] += 1
                taking[key, kind] += bool(
                    job.get("status", {}).get("ready", 0) or time.time() - _made_at(job) < PLACE_SECONDS
                )
        return {of: (count, taking[of]) for of, count in unfinished.items()}

    def by_state(self) -> Mapping[tuple[str, str, str], int]:
        """(tenant id, kind of work, running | failed) -> Jobs, for the metrics. Failed: the last ones in a row."""
        jobs: dict[tuple[str, str], list[Object]] = defaultdict(list)
        for _, kind, job in self._all():
            jobs[job["metadata"]["labels"][kinds.TENANT_LABEL], kind].append(job)
        found = {}
        for (tenant, kind), each in jobs.items():
            found[tenant, kind, "running"] = sum(not is_finished(job) for job in each)
            found[tenant, kind, "failed"] = len(_failures_in_a_row(each))
        return {of: count for of, count in found.items() if count}

    def backs_off(self, tenant: MediaTenant, kind: str) -> bool:
        """Whether the last Jobs of this kind failed and the next one has to wait."""
        failures = self._failures(tenant, kind)
        if not failures:
            return False
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (len(failures) - 1))
        return bool(time.time() < _ended_at(failures[-1]) + delay)

    async def launch(
        self, tenant: MediaTenant, kind: str, name: str, credentials: Mapping[str, str]
    ) -> Literal["created", "exists", "no"]:
        """Makes one Job. "exists": somebody who saw the same queue has made it already, which is as good."""
        ended = {job["metadata"]["name"]: job["metadata"]["uid"] for job in self._of(tenant) if is_finished(job)}
        while name in ended:
            # That Job ended without having leased the job that it was named for. The next try gets this name, whoever
            # makes it.
            digest = hashlib.sha256(f"{name}\n{ended[name]}".encode()).hexdigest()
            name = f"{name.rpartition('-')[0]}-{digest[:8]}"
        body = self._job(tenant, kind, name, credentials)
        try:
            self._cache.applied(kinds.JOB, await self._kube.create(kinds.JOB, body))
        except AlreadyExists:
            return "exists"
        except KubeError as error:
            _log.warning("job_refused", tenant=tenant.tenant_id, kind=kind, reason=str(error))
            self._note_refusal(tenant, kind, f"the API server refuses the tenant's {kind} Job: {error}")
            return "no"
        self._note_refusal(tenant, kind, None)
        return "created"

    def _note_refusal(self, tenant: MediaTenant, kind: str, words: str | None) -> None:
        before = self._refusals.pop((tenant.metadata.uid, kind), None)
        if words is not None:
            self._refusals[tenant.metadata.uid, kind] = words
        if (before is None) != (words is None):
            self.refusal_changed(key_of(tenant))

    # --- for a tenant's conditions ----------------------------------------------------------------------------------

    def trouble(self, tenant: MediaTenant) -> Mapping[str, str]:
        """Kind of work -> why its last Job failed. Until a Job succeeds."""
        found = {}
        for kind in desired.worker_shape_of(tenant).parallel:
            if failures := self._failures(tenant, kind):
                ending = _ending(failures[-1]) or {}
                words, name = ending.get("message") or ending.get("reason", ""), failures[-1]["metadata"]["name"]
                found[kind] = f"{kind} Jobs that failed in a row: {len(failures)}, the last one {name}: {words}"
        return found

    def refused(self, tenant: MediaTenant) -> Mapping[str, str]:
        """Kind of work -> why the API server refuses its Jobs: a quota, a webhook, a missing right.

        Until it accepts one, or this process ends. Each look at the queue tries again.
        """
        parallel = desired.worker_shape_of(tenant).parallel
        return {kind: words for kind in parallel if (words := self._refusals.get((tenant.metadata.uid, kind)))}

    def starting(self, tenant: MediaTenant) -> Mapping[str, float]:
        """Kind of work, if none of its Jobs runs -> seconds for which the oldest Job has waited."""
        found: dict[str, float] = {}
        run = set()
        for job in self._of(tenant):
            kind = job["metadata"]["labels"][kinds.WORK_LABEL]
            if is_finished(job):
                continue
            if job.get("status", {}).get("ready", 0):
                run.add(kind)
            else:
                found[kind] = max(time.time() - _made_at(job), found.get(kind, 0.0))
        return {kind: seconds for kind, seconds in found.items() if kind not in run}

    def outdated(self, tenant: MediaTenant, credentials: Mapping[str, str]) -> tuple[str, ...]:
        """Names of Jobs that have not started for `PLACE_SECONDS` and that the spec of now would make differently."""
        found = []
        for job in self._of(tenant):
            metadata, kind = job["metadata"], job["metadata"]["labels"][kinds.WORK_LABEL]
            started = is_finished(job) or job.get("status", {}).get("ready", 0)
            if started or time.time() - _made_at(job) < PLACE_SECONDS or kind not in KINDS:
                continue
            wanted = self._job(tenant, kind, metadata["name"], credentials)["metadata"]["annotations"]
            if metadata.get("annotations", {}).get(kinds.APPLIED) != wanted[kinds.APPLIED]:
                found.append(metadata["name"])
        return tuple(sorted(found))

    async def unstarted(self, tenant: MediaTenant, kind: str) -> str:
        """Why no Job of this kind runs, if no pod says why."""
        job = next(
            job
            for job in self._of(tenant)
            if job["metadata"]["labels"][kinds.WORK_LABEL] == kind and not is_finished(job)
        )
        name = job["metadata"]["name"]
        if job.get("spec", {}).get("suspend"):
            return f"Job {name} is suspended: no queue has admitted it (Kueue)"
        why = await refused_pod(self._kube, job) or f"kubectl describe job {name} says why"
        return f"Job {name} has no running pod: {why}"

    def any_with_other_credentials(self, tenant: MediaTenant, credentials: Mapping[str, str]) -> bool:
        """Whether a Job may still use credentials that were replaced since it was made."""
        told = render.credentials_hash(credentials, self.store)
        return any(
            job["metadata"].get("annotations", {}).get(kinds.CREDENTIALS) != told
            for job in self._of(tenant)
            if not is_finished(job)
        )

    def store_settings(self, bucket: str, credentials: Mapping[str, str]) -> S3Settings:
        """The store as the tenant's own pods see it."""
        if self.store.credentials == "role":
            key = parsed(credentials[render.S3_FILE])
        else:
            key = S3Key(credentials[render.S3_KEY_ID], credentials[render.S3_SECRET])
        return S3Settings(
            endpoint=self.store.endpoint,
            public_endpoint=self.store.public_endpoint,
            bucket=bucket,
            region=self.store.region,
            access_key_id=key.access_key_id,
            secret_access_key=SecretStr(key.secret_access_key),
            session_token=SecretStr(key.session_token) if key.session_token else None,
        )

    def _job(self, tenant: MediaTenant, kind: str, name: str, credentials: Mapping[str, str]) -> Object:
        return render.stamped(
            render.job(
                tenant,
                self._platform,
                self.store,
                kind=kind,
                name=name,
                credentials=credentials,
                connection_limit=self._connection_limit,
            )
        )

    # --- counting ---------------------------------------------------------------------------------------------------

    def _all(self) -> Iterator[tuple[TenantKey, str, Object]]:
        """Jobs by their owner, since whoever may edit a namespace can write labels there."""
        for key, body in self._cache.tenants().items():
            tenant_id = unique_names(body).tenant_id
            for job in self._cache.jobs(key):
                labels = job["metadata"].get("labels", {})
                if kinds.WORK_LABEL in labels and labels.get(kinds.TENANT_LABEL) == tenant_id:
                    yield key, labels[kinds.WORK_LABEL], job

    def _of(self, tenant: MediaTenant) -> Iterator[Object]:
        yield from (
            job for job in self._cache.jobs(key_of(tenant)) if kinds.WORK_LABEL in job["metadata"].get("labels", {})
        )

    def _failures(self, tenant: MediaTenant, kind: str) -> list[Object]:
        return _failures_in_a_row(
            job for job in self._of(tenant) if job["metadata"]["labels"][kinds.WORK_LABEL] == kind
        )


def _failures_in_a_row(jobs: Iterable[Object]) -> list[Object]:
    """The last Jobs, if they failed one after the other; oldest first."""
    failures: list[Object] = []
    for job in sorted(filter(is_finished, jobs), key=_ended_at):
        failures = [*failures, job] if has_failed(job) else []
    return failures


def _made_at(job: Object) -> float:
    return datetime.fromisoformat(job["metadata"]["creationTimestamp"]).timestamp()


def _ended_at(job: Object) -> float:
    ending = _ending(job) or {}
    return datetime.fromisoformat(ending.get("lastTransitionTime") or job["metadata"]["creationTimestamp"]).timestamp()
