"""The operator's process: stands by until it has the Lease, works while it has it, and ends when it loses it.

It ends at once when it loses the Lease. Otherwise it could do what the new leader does, too. All its work can be cut
anywhere and repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import kopf
import structlog
from pydantic import ValidationError

from media_core import logs, variables
from media_core.errors import Unavailable
from media_core.jobs.depth import Depth
from media_core.settings import LogSettings, complaints
from media_operator import health
from media_operator.backends import databases
from media_operator.backends.backends import Backends
from media_operator.backends.breaker import Breaker
from media_operator.backends.buckets import Buckets
from media_operator.backends.scanner_version import ScannerVersion
from media_operator.backends.store_keys import open_store_keys
from media_operator.cluster import handlers, kinds
from media_operator.cluster.cache import Cache, TenantKey
from media_operator.cluster.kinds import Kind
from media_operator.cluster.kube import KindNotServed, Kube, KubeError
from media_operator.cluster.lease import Election
from media_operator.cluster.workqueue import WorkQueue
from media_operator.controller.controller import Controller, NotSettled
from media_operator.controller.figures import Figures
from media_operator.jobs.dispatch import FleetDispatcher, listen
from media_operator.jobs.fleet import ClusterFleet
from media_operator.jobs.worker_jobs import WorkerJobs
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.metrics import Metrics, Snapshot
from media_operator.settings import DatabaseSettings, OperatorSettings, PlatformSettings, StoreAdminSettings

_log = structlog.stdlib.get_logger("media.operator")

CRD_POLL_SECONDS = 2.0
UNLISTED_SECONDS = 2.0
RELIST_DEBOUNCE = 3.0
"""Mostly all watches are cut together. They are back within `handlers.WATCH_BACKOFFS`."""
SILENCE_SECONDS = 60.0
"""The watches show the Lease every few seconds. If they show nothing for so long, they are taken for dead."""
STUCK_SECONDS = 600.0
"""If a tenant waits longer for its pass, the operator is taken for stuck."""
WAKE_SPREAD_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """The operator's settings, read from its environment. Raises pydantic's ValidationError."""

    operator: OperatorSettings = field(default_factory=OperatorSettings)
    platform: PlatformSettings = field(default_factory=PlatformSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    store: StoreAdminSettings = field(default_factory=StoreAdminSettings)
    log: LogSettings = field(default_factory=LogSettings)


class Operator:
    """One process. `run` returns its exit status."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._identity = settings.operator.identity or f"{socket.gethostname()}-{os.getpid()}"
        self._heard_at = time.monotonic()
        self._synced = asyncio.Event()
        """All objects of every kind were listed."""
        self._stopping = asyncio.Event()
        self._listed = asyncio.Event()
        """A watch began again."""
        self._leads = False
        self._cache = Cache()
        self._controller: Controller | None = None
        self._dispatcher: FleetDispatcher | None = None
        self._jobs: WorkerJobs | None = None
        self._scanner = ScannerVersion(settings.platform.clamd_host, settings.platform.clamd_port)
        self._queue: WorkQueue[TenantKey] = WorkQueue(quiet=(NotSettled, KubeError, Unavailable))

    async def run(self) -> int:
        async with await Kube.connect() as kube:
            self._metrics = Metrics(self._snapshot)
            kube.observer = self._metrics.requested
            election = Election(
                kube,
                self._settings.operator.namespace,
                self._settings.operator.lease_name,
                self._identity,
                self._settings.operator.lease_seconds,
            )
            server = await health.serve(
                self._settings.operator.http_host,
                self._settings.operator.http_port,
                self._ages,
                leads=lambda: self._leads,
                metrics=self._metrics.text,
            )
            try:
                return await self._stand(kube, election)
            finally:
                await server.close()

    async def _stand(self, kube: Kube, election: Election) -> int:
        self._catch_signals()
        _log.info("standing_by", identity=self._identity)
        acquired = asyncio.create_task(election.acquire())
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([acquired, stopped], return_when=asyncio.FIRST_COMPLETED)
        if self._stopping.is_set():
            acquired.cancel()
            return 0
        acquired.result()
        self._leads, self._heard_at = True, time.monotonic()
        _log.info("leading", identity=self._identity)
        work = asyncio.create_task(self._work(kube))
        lease = asyncio.create_task(election.hold())
        try:
            await asyncio.wait([work, lease, stopped], return_when=asyncio.FIRST_COMPLETED)
            if lease.done():
                _log.error("lease_lost", identity=self._identity)
                os._exit(1)  # at once: not even a cleanup may run
            if work.done():
                work.result()
            return 0
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            lease.cancel()
            await asyncio.gather(lease, return_exceptions=True)
            await election.release()
            _log.info("stopped")

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)

    async def _work(self, kube: Kube) -> None:
        """Runs until cancelled, or until a part fails."""
        settings = self._settings
        await self._wait_for_crd(kube)
        cluster = await self._cluster_id(kube)
        children = tuple(
            kind
            for kind in kinds.CHILDREN
            if kind != kinds.HTTP_ROUTE or settings.platform.gateway  # its CRD is there only with a gateway
        )
        backends = Backends(
            databases.Databases(settings.database), Buckets(settings.store), open_store_keys(settings.store, cluster)
        )
        limit = settings.database.connection_limit
        jobs = WorkerJobs(kube, self._cache, settings.platform, settings.store, limit, self._synced.is_set)
        shared = Cluster(
            cluster, kube, self._cache, backends, jobs, settings.platform, settings.operator, connection_limit=limit
        )
        controller = Controller(shared, self._metrics)
        fleet = ClusterFleet(controller.served, jobs, backends)
        dispatcher = FleetDispatcher(fleet, limit=settings.platform.max_jobs)
        self._controller, self._dispatcher, self._jobs = controller, dispatcher, jobs
        controller.on_served = dispatcher.wake
        jobs.refusal_changed = self._queue.add
        for breaker in (
            backends.database_breaker,
            backends.store_breaker,
            backends.iam_breaker,
            backends.sts_breaker,
        ):
            breaker.on_close(functools.partial(self._wake_all, breaker))
        # kopf installs its own signal handlers as it starts. On a signal it waits 5 s for all tasks of the loop, and
        # the Lease would not be released until then. So ours are installed again.
        watching: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watching.add_done_callback(lambda _: self._catch_signals())
        registry = handlers.registry(
            self._cache, self._queue, self._heard, self._listed.set, dispatcher.job_ended, children
        )
        parts = {
            "watches": kopf.operator(
                registry=registry,
                settings=handlers.settings(children),
                identity=cast("Any", self._identity),  # kopf's own is the user's name, and pods' users have none
                standalone=True,
                ready_flag=watching,
                clusterwide=not settings.operator.namespaces,
                namespaces=settings.operator.namespaces,
            ),
            "relist": self._relist(kube, children, dispatcher),
            "reconcile": self._once_synced(self._queue.run(controller.handle, settings.operator.concurrency)),
            "dispatch": dispatcher.run(),
            "listen": listen(lambda: settings.database.url.get_secret_value(), dispatcher.wake),
            "usage": self._follow_usage(controller.figures),
            "scanner": self._scanner.run(),
            "retire": self._once_synced(controller.retirement.run()),
        }
        try:
            await _until_one_ends(parts)
        finally:
            await backends.databases.aclose()

    # --- before the work --------------------------------------------------------------------------------------------

    async def _wait_for_crd(self, kube: Kube) -> None:
        """kopf serves only the kinds that exist when it starts."""
        namespaces = self._settings.operator.namespaces
        while True:
            try:
                await kube.list(kinds.MEDIA_TENANT, namespaces[0] if namespaces else None)
            except KubeError as error:
                _log.warning("no_mediatenants", reason=str(error))
            else:
                return
            self._heard()  # while it waits for the CRD the process is healthy
            await asyncio.sleep(CRD_POLL_SECONDS)

    async def _cluster_id(self, kube: Kube) -> str:
        found = await kube.get(kinds.NAMESPACE, None, "kube-system")
        return str((found or {"metadata": {"uid": ""}})["metadata"]["uid"])

    # --- beside the work --------------------------------------------------------------------------------------------

    async def _once_synced(self, part: Coroutine[None, None, None]) -> None:
        """Runs `part` once all objects of every kind were listed: earlier, existing ones would be taken for missing."""
        try:
            await self._synced.wait()
        except asyncio.CancelledError:
            part.close()
            raise
        await part

    async def _relist(self, kube: Kube, children: tuple[Kind, ...], dispatcher: FleetDispatcher) -> None:
        while True:
            self._listed.clear()
            listed = [await self._list(kube, kind) for kind in (*children, kinds.JOB, kinds.MEDIA_TENANT)]
            if not self._synced.is_set() and all(listed):
                self._synced.set()
                dispatcher.wake(None)
            seconds = self._settings.operator.relist_seconds if self._synced.is_set() else UNLISTED_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds * random.uniform(0.8, 1.2)):  # noqa: S311  jitter, not a secret
                    await self._listed.wait()
                    await asyncio.sleep(RELIST_DEBOUNCE)

    async def _list(self, kube: Kube, kind: Kind) -> bool:
        """Whether it could be listed."""
        selector = "" if kind == kinds.MEDIA_TENANT else kinds.OURS
        for namespace in self._settings.operator.namespaces or (None,):
            try:
                listed, version = await kube.list(kind, namespace, selector=selector)
            except KindNotServed as error:
                _log.warning("not_listed", kind=kind.kind, reason=str(error))
                return kind == kinds.HTTP_ROUTE  # none can exist; a tenant that needs one says so in a condition
            except KubeError as error:
                _log.warning("not_listed", kind=kind.kind, reason=str(error))
                return False
            for key in self._cache.replace(kind, listed, version, namespace=namespace):
                self._queue.add(key)
        return True

    async def _follow_usage(self, figures: Figures) -> None:
        while True:
            await asyncio.sleep(self._settings.operator.usage_seconds)
            with contextlib.suppress(Unavailable):
                for key in await figures.poll():
                    self._queue.add(key)

    def _wake_all(self, breaker: Breaker) -> None:
        """A dependency is back: all tenants are looked at again, spread over some seconds."""
        _log.info("available_again", dependency=breaker.name)
        for key in self._cache.tenants():
            self._queue.add_after(key, random.uniform(0, WAKE_SPREAD_SECONDS))  # noqa: S311  jitter, not a secret

    def _heard(self) -> None:
        self._heard_at = time.monotonic()

    # --- what others want to know -----------------------------------------------------------------------------------

    def _ages(self) -> dict[str, tuple[float, float]]:
        """See `health.Ages`. Of a replica that stands by: nothing."""
        if not self._leads:
            return {}
        return {
            "last watch event": (time.monotonic() - self._heard_at, SILENCE_SECONDS),
            "oldest tenant that is due": (self._queue.oldest_age(), STUCK_SECONDS),
        }

    def _snapshot(self) -> Snapshot:
        age = time.monotonic() - self._heard_at
        if not self._leads or self._controller is None:
            return Snapshot(self._leads, age)
        tenants = self._controller.figures.facts(self._dispatcher_depths(), self._jobs_by_state())
        return Snapshot(True, age, tenants, self._scanner.up, self._scanner.age())

    def _dispatcher_depths(self) -> Mapping[str, Mapping[str, Depth]]:
        return self._dispatcher.depths if self._dispatcher is not None else {}

    def _jobs_by_state(self) -> Mapping[tuple[str, str, str], int]:
        return self._jobs.by_state() if self._jobs is not None else {}


async def _until_one_ends(parts: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Runs these side by side; once one ends, ends all. Raises its error."""
    tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.cancelled():
                continue  # on a signal kopf cancels all other tasks of its loop
            if task.exception() is not None:
                _log.error("part_ended", part=task.get_name())
            task.result()  # without an error kopf ends only on a signal
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        print("\n".join(complaints(error)), file=sys.stderr)
        return 2
    logs.configure(settings.log.format, settings.log.level)
    variables.warn_of_unknown()
    logging.getLogger("kopf").setLevel(logging.WARNING)  # below that it logs every event
    return asyncio.run(Operator(settings).run())
