"""The objects that one api process works with, opened when it starts and closed when it ends."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from media_api.background.event_feed import EventFeed
from media_api.background.job_watch import JobWatch
from media_api.background.webhook_delivery import Delivery
from media_api.metrics import Metrics
from media_api.settings import AuthSettings, Settings
from media_core.auth.token_keys import JwksFile, OidcKeys
from media_core.auth.tokens import TokenVerifier
from media_core.database import Database
from media_core.decoding.pool import DecodingPool
from media_core.events.feed import Events
from media_core.examination.examination import Examination
from media_core.items.library import Library
from media_core.items.signed_urls import SharedUrls
from media_core.policy import PolicyReader
from media_core.store import ObjectStore, open_store
from media_core.transcripts.requests import Jobs
from media_core.transcripts.search import Search
from media_core.uploads.capacity import Capacity, of_this_container
from media_core.uploads.final import Finals
from media_core.uploads.resumable import Resumables
from media_core.uploads.upload import Uploads


@dataclass
class Services:
    """One tenant's objects, wired together."""

    tenant_id: str
    settings: Settings
    metrics: Metrics
    database: Database
    store: ObjectStore
    policy: PolicyReader
    decoder: DecodingPool
    uploads: Uploads
    resumables: Resumables
    finals: Finals
    library: Library
    jobs: Jobs
    search: Search
    watch: JobWatch
    events: Events
    feed: EventFeed
    shared_urls: SharedUrls
    verifier: TokenVerifier
    delivering: tuple[asyncio.Task[None], ...] = ()
    """One task a webhook."""
    draining: bool = False

    def drain(self) -> None:
        """To be called when the process is told to end: readiness fails, and endless streams end."""
        self.draining = True
        self.watch.stop()
        self.feed.stop()
        for task in self.delivering:
            task.cancel()  # another process goes on at once


async def _cancel(tasks: tuple[asyncio.Task[None], ...]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def opened(settings: Settings, metrics: Metrics, processes: int = 1) -> AsyncIterator[Services]:
    """Makes no request yet: an outage of a dependency shows in `/readyz`, not in a crash.

    `processes`: how many share the connections, decoding processes and memory.
    """
    tenant_id = settings.tenant.tenant_id
    pool_size = max(1, settings.tenant.database_pool // processes)
    database = Database(
        settings.tenant.database_url.get_secret_value(), pool_size=pool_size, prepare=settings.tenant.database_prepare
    )
    store = open_store(settings.store, tenant_id)
    policy = PolicyReader(database)
    library = Library(tenant_id=tenant_id, database=database, store=store, policy=policy)
    jobs = Jobs(
        database=database,
        library=library,
        max_seconds=settings.transcription.max_seconds,
        model=settings.whisper.model,
    )
    watch = JobWatch(jobs)
    events = Events(database)
    feed = EventFeed(events)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(database.aclose)
        stack.push_async_callback(store.aclose)
        decoder = await stack.enter_async_context(
            DecodingPool(processes=max(1, settings.decoding.processes // processes))
        )
        for polling in (asyncio.create_task(watch.poll()), asyncio.create_task(feed.poll())):
            stack.callback(polling.cancel)
        uploads = Uploads(
            tenant_id=tenant_id,
            database=database,
            store=store,
            examiner=Examination(decoder),
            policy=policy,
            capacity=Capacity(of_this_container(processes=processes)),
        )
        deliver = functools.partial(
            Delivery,
            tenant_id=tenant_id,
            database=database,
            events=events,
            feed=feed,
            policy=policy,
            allowed=settings.webhooks.webhook_allow_networks,
        )
        delivering = tuple(asyncio.create_task(deliver(each).run()) for each in settings.webhooks.entries())
        stack.push_async_callback(_cancel, delivering)
        resumables = Resumables(uploads, lifetime=timedelta(hours=settings.upload.hours))
        yield Services(
            tenant_id=tenant_id,
            settings=settings,
            metrics=metrics,
            database=database,
            store=store,
            policy=policy,
            decoder=decoder,
            uploads=uploads,
            resumables=resumables,
            finals=Finals(resumables),
            library=library,
            jobs=jobs,
            search=Search(library),
            watch=watch,
            events=events,
            feed=feed,
            delivering=delivering,
            shared_urls=SharedUrls(tenant_id, database, settings.store.public_url),
            verifier=verifier_of(tenant_id, settings.auth),
        )


def verifier_of(tenant_id: str, auth: AuthSettings) -> TokenVerifier:
    if auth.jwks_file is not None:
        return TokenVerifier(tenant_id, JwksFile(auth.jwks_file), audience=auth.oidc_audience, issuer=auth.oidc_issuer)
    assert auth.oidc_jwks_uri is not None  # noqa: S101 (AuthSettings sees to it)
    return TokenVerifier(
        tenant_id,
        OidcKeys(auth.oidc_jwks_uri),
        audience=auth.oidc_audience,
        issuer=auth.oidc_issuer,
        claims=auth.claims,
    )


def services_at(request: Request) -> Services:
    """Those of the process that answers this request."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    return services_at(request)


Wired = Annotated[Services, Depends(_services)]
"""The services, as a route's parameter."""
