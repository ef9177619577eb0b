"""`/healthz` says whether the operator does its work, not only that it answers."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from media_operator import health


@dataclass
class Replica:
    url: str = ""
    leads: bool = True
    ages: dict[str, tuple[float, float]] = field(default_factory=dict)

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as client:
            return await client.get(path)


@pytest.fixture(params=["127.0.0.1", "::"])
async def replica(request: pytest.FixtureRequest) -> AsyncIterator[Replica]:
    replica = Replica()

    async def metrics() -> bytes:
        return b"media_leader 1.0\n"

    server = await health.serve(request.param, 0, lambda: replica.ages, leads=lambda: replica.leads, metrics=metrics)
    replica.url = f"http://127.0.0.1:{server.port}"
    yield replica
    await server.close()


async def test_a_leader_that_hears_and_works_is_healthy(replica: Replica) -> None:
    replica.ages = {"last watch event": (1.2, 60), "oldest tenant that is due": (0, 600)}
    answer = await replica.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "last watch event: 1.2 s\noldest tenant that is due: 0.0 s\n")
    assert (await replica.get("/readyz")).text == "leader\n"


async def test_silent_watches_are_unhealthy_and_the_answer_says_so_first(replica: Replica) -> None:
    replica.ages = {"oldest tenant that is due": (3, 600), "last watch event": (61.4, 60)}
    answer = await replica.get("/healthz")
    assert answer.status_code == 503
    assert answer.text == "last watch event: 61 s, at most 60\noldest tenant that is due: 3.0 s\n"


async def test_a_replica_that_stands_by_is_healthy_and_ready(replica: Replica) -> None:
    replica.leads = False
    for path in ("/healthz", "/readyz"):
        answer = await replica.get(path)
        assert (answer.status_code, answer.text) == (200, "standby\n")


async def test_metrics_have_the_content_type_that_prometheus_wants(replica: Replica) -> None:
    answer = await replica.get("/metrics")
    assert answer.text == "media_leader 1.0\n"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
