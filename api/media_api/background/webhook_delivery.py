"""Delivers events to one webhook. `media_core.events.webhooks` says what holds, and keeps the rows.

Each process of the api runs one `Delivery` a webhook. It tries to get the claim now and then; the one that has it
listens to the process's feed of events.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from media_api.background.event_feed import EventFeed
from media_core.database import Database
from media_core.errors import Unavailable
from media_core.events import outgoing, webhooks
from media_core.events.feed import Event, Events
from media_core.events.outgoing import Undelivered
from media_core.events.webhooks import AT_ONCE, TRIED, ClaimLost, Outbox, Outcome, SecretMissing, Standing, Webhook
from media_core.policy import PolicyReader

LOOK_SECONDS: Final = 5.0
"""How often a process without the claim asks for it, and the one that has it renews it."""
PARALLEL: Final = 8
"""Files whose events are sent at the same time."""

GONE: Final = 410
"""The status at which Standard Webhooks asks to stop."""

_log = structlog.stdlib.get_logger("media.webhooks")


@dataclass(frozen=True)
class _Failed:
    """An attempt: why, in words, and for how many seconds the receiver wants to be left alone."""

    error: str
    rest: float = 0.0
    is_gone: bool = False


class Delivery:
    """Run `run` as a task. When it is cancelled it gives the claim back, so that another process goes on at once."""

    def __init__(
        self,
        webhook: Webhook,
        *,
        tenant_id: str,
        database: Database,
        events: Events,
        feed: EventFeed,
        policy: PolicyReader,
        allowed: Sequence[outgoing.Network],
    ) -> None:
        self._webhook = webhook
        self._tenant_id = tenant_id
        self._events = events
        self._feed = feed
        self._policy = policy
        self._allowed = allowed
        self._outbox = Outbox(database, webhook)
        self._sending = asyncio.Semaphore(PARALLEL)
        self._trouble: str | None = None
        """Why the last attempt failed, as the log has it."""

    async def run(self) -> None:
        """Until it is cancelled. It catches every error: nobody awaits this task."""
        try:
            while True:
                try:
                    await self._deliver_while_claimed()
                except (Unavailable, ClaimLost) as error:
                    _log.warning("webhook_waits", host=self._webhook.host, reason=str(error) or type(error).__name__)
                except Exception:
                    _log.exception("webhook_broke", host=self._webhook.host)
                await asyncio.sleep(LOOK_SECONDS * (0.5 + random.random() / 2))  # noqa: S311 (no secret)
        finally:
            with contextlib.suppress(Exception):  # else it runs out by itself
                await self._outbox.release()

    async def _deliver_while_claimed(self) -> None:
        if not await self._outbox.is_known():
            await self._outbox.register(await self._events.place_all())
        if await self._outbox.claim() is None:
            return
        keeping = asyncio.create_task(self._keep_claim())
        delivering = asyncio.create_task(self._deliver())
        try:
            done, _ = await asyncio.wait((keeping, delivering), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (keeping, delivering):
                task.cancel()
            await asyncio.gather(keeping, delivering, return_exceptions=True)

    async def _keep_claim(self) -> None:
        """Renews the claim also while a receiver is slow. Raises ClaimLost, Unavailable: then no more is sent."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if await self._outbox.claim() is None:
                raise ClaimLost

    async def _deliver(self) -> None:
        with self._feed.listening():
            while True:
                standing = await self._outbox.claim()
                if standing is None:
                    raise ClaimLost
                await self._round(standing)

    async def _round(self, standing: Standing) -> None:
        """Tries again what is due, else sends what is new, else waits for either."""
        if (await self._policy.current()).suspended:
            await asyncio.sleep(LOOK_SECONDS)
            return
        if await self._outbox.give_up():
            _log.error("webhook_events_given_up", host=self._webhook.host)
            return
        if standing.is_over and await self._give_up_old(standing):
            return
        if standing.rest > 0:
            await asyncio.sleep(min(standing.rest, LOOK_SECONDS))
            return
        try:
            self._webhook.secrets()  # a missing one is noted before there is an event
            await self._send_what_waits(standing)
        except SecretMissing as error:
            # It is no attempt: the first one that fails later is followed by a short pause.
            self._log_change(str(error))
            failures = max(standing.failures, webhooks.RESTS_AFTER)
            await self._outbox.record(Outcome(standing.position, failures, rest=LOOK_SECONDS, error=str(error)))

    async def _send_what_waits(self, standing: Standing) -> None:
        """Raises SecretMissing."""
        most = 1 if standing.rests else AT_ONCE
        if due := await self._outbox.due(most, soon=standing.rests):
            found = {event.position: event for event in await self._events.at([each.position for each in due])}
            outcome = Outcome(standing.position, standing.failures)
            outcome.delivered += [each.position for each in due if each.position not in found]  # not kept any more
            outcome.media_ids |= {each.media_id for each in due if each.position not in found}
            tried = [([found[each.position]], each.attempts) for each in due if each.position in found]
            await self._send(standing, outcome, tried)
            return
        pause = await self._outbox.next_due()
        try:
            async with asyncio.timeout(LOOK_SECONDS if pause is None else min(pause, LOOK_SECONDS)):
                new = await self._feed.after(standing.position)
        except TimeoutError:
            return
        if not new:  # the feed has stopped
            await asyncio.sleep(LOOK_SECONDS)
            return
        await self._send_new(standing, new[:most] if not standing.rests else self._until_one(new))

    async def _send_new(self, standing: Standing, new: Sequence[Event]) -> None:
        wanted = [event for event in new if self._wants(event)]
        outcome = Outcome(new[-1].position, standing.failures)
        waiting = await self._outbox.waiting({event.media_id for event in wanted}) if wanted else set()
        by_file: defaultdict[str, list[Event]] = defaultdict(list)
        for event in wanted:
            if event.media_id in waiting:
                outcome.note(event.position, event.media_id, attempts=0, pause=None, error=None)
            else:
                by_file[event.media_id].append(event)
        await self._send(standing, outcome, [(events, 0) for events in by_file.values()])

    async def _send(self, standing: Standing, outcome: Outcome, files: Sequence[tuple[Sequence[Event], int]]) -> None:
        """Sends the events of each file in order, several files at a time, and records what came of it."""
        keys = self._webhook.secrets()  # now: an event may have been waited for
        results = await asyncio.gather(*(self._send_in_order(events, keys) for events, _ in files))
        succeeded = any(taken for taken, _ in results)
        failures = [failed for _, failed in results if failed is not None]
        for (events, attempts), (taken, failed) in zip(files, results, strict=True):
            outcome.delivered += [event.position for event in events[:taken]]
            if taken:
                outcome.media_ids.add(events[0].media_id)
            for number, event in enumerate(events[taken:]):
                first = number == 0
                outcome.note(
                    event.position,
                    event.media_id,
                    attempts=attempts + 1 if first else 0,
                    pause=_pause(attempts + 1, webhooks.MOST_PAUSE_SECONDS) if first else None,
                    error=failed.error if failed is not None and first else None,
                )
        if succeeded:
            outcome.failures = 0
            outcome.has_recovered = standing.rests
        outcome.failures += len(failures)
        if any(failed.is_gone for failed in failures):
            outcome.failures = max(outcome.failures, webhooks.RESTS_AFTER)
        outcome.error = failures[-1].error if failures else None
        if results:
            self._log_change(outcome.error)
        if outcome.failures >= webhooks.RESTS_AFTER:
            outcome.rest = _pause(outcome.failures - webhooks.RESTS_AFTER + 1, webhooks.MOST_REST_SECONDS)
        outcome.rest = max([outcome.rest, *(failed.rest for failed in failures)])
        await self._outbox.record(outcome)

    def _log_change(self, trouble: str | None) -> None:
        """One line when attempts begin to fail, when the cause changes, and when they succeed again."""
        if trouble is not None and trouble != self._trouble:
            _log.warning("webhook_fails", host=self._webhook.host, reason=trouble)
        elif trouble is None and self._trouble is not None:
            _log.info("webhook_recovered", host=self._webhook.host)
        self._trouble = trouble

    async def _send_in_order(self, events: Sequence[Event], keys: Sequence[bytes]) -> tuple[int, _Failed | None]:
        """How many were taken, and why the next one was not."""
        async with self._sending:
            for taken, event in enumerate(events):
                if (failed := await self._attempt(event, keys)) is not None:
                    return taken, failed
        return len(events), None

    async def _attempt(self, event: Event, keys: Sequence[bytes]) -> _Failed | None:
        """None: it was taken."""
        body = webhooks.body_of(event, self._tenant_id)
        headers = webhooks.headers_of(event.event_id, body, keys, int(time.time()))
        try:
            answer = await outgoing.post(self._webhook.url, body, headers, self._allowed)
        except Undelivered as error:
            return _Failed(str(error))
        status = answer.status
        if 200 <= status < 300:
            return None
        if status == GONE:
            words = f"answered {status}, which says that it is gone for good. Remove this webhook, or name another URL"
            return _Failed(words, webhooks.MOST_ASKED_SECONDS, is_gone=True)
        words = f"answered {status}" + (", and redirects are not followed" if 300 <= status < 400 else "")
        return _Failed(words, min(answer.retry_after or 0, webhooks.MOST_ASKED_SECONDS))

    async def _give_up_old(self, standing: Standing) -> bool:
        """The receiver takes nothing for longer than an event is tried: gives up events that were never sent."""
        before = time.time() - TRIED.total_seconds()
        oldest = await self._events.after(standing.position)
        old = list(itertools.takewhile(lambda event: event.created_at.timestamp() < before, oldest))
        if not old:
            return False
        outcome = Outcome(old[-1].position, standing.failures, rest=standing.rest)
        for event in old:
            if self._wants(event):
                words = "not sent, because nothing was taken for three days"
                outcome.note(event.position, event.media_id, attempts=0, pause=None, error=words, dead=True)
        await self._outbox.record(outcome)
        return True

    def _until_one(self, new: Sequence[Event]) -> Sequence[Event]:
        """Up to the first event that this webhook wants."""
        first = next((number for number, event in enumerate(new) if self._wants(event)), len(new) - 1)
        return new[: first + 1]

    def _wants(self, event: Event) -> bool:
        return not self._webhook.events or event.type in self._webhook.events


def _pause(attempts: int, most: float) -> float:
    """Seconds, doubling with each attempt, with jitter."""
    return float(min(most, 2.0 ** min(max(attempts, 0), 20)) * (0.5 + random.random() / 2))  # noqa: S311 (no secret)
