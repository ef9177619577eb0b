"""One port served by several processes: together they are one api."""

import asyncio
import contextlib
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from media_core.listening import EVERY, usable
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.http.test_shutdown import ended, terminate
from tests.integration.servers.api import Api, anybody, eventually, log_lines, process, upload

TWO = {"MEDIA_API_PROCESSES": "2"}


def children(api: Api) -> list[psutil.Process]:
    assert api.process is not None
    return psutil.Process(api.process.pid).children()


async def answered(api: Api) -> float:
    """Number of requests to /healthz by the metrics."""
    async with anybody(api.metrics_base or "") as client:
        text = (await client.get("/metrics")).text
    line = 'media_api_requests_total{method="GET",route="/healthz",status="200"} '
    return sum(float(found.removeprefix(line)) for found in text.splitlines() if found.startswith(line))


async def test_all_processes_answer_and_their_metrics_add_up(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with process(postgres, tmp_path, **TWO) as api:
        assert len(children(api)) == 2
        await asyncio.gather(*(_ask(api) for _ in range(40)))
        assert await answered(api) == 40

        async def both_have_worked() -> bool:
            await asyncio.gather(*(_ask(api) for _ in range(20)))
            return all(child.cpu_times().user > 0 for child in children(api))

        await eventually(both_have_worked)
        async with api.client() as client:
            stored = await upload(client, b"seen by both")
            for _ in range(10):  # over connections of their own, so that both are asked
                async with api.client() as another:
                    found = await another.get(f"/v1/media/{stored['media_id']}/info")
                    assert found.json()["data"]["sha256"] == stored["sha256"]


async def test_both_address_families_are_served_and_the_log_names_an_ipv4_client_as_such(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    everywhere = {"MEDIA_API_HOST": "::", "MEDIA_API_METRICS_HOST": "::", "MEDIA_API_TRUSTED_PROXIES": "127.0.0.0/8"}
    async with process(postgres, tmp_path, **TWO, **everywhere) as api:
        port, metrics_port = api.address[1], httpx.URL(api.metrics_base or "").port
        for host in ("127.0.0.1", "[::1]") if usable(EVERY) == EVERY else ("127.0.0.1",):
            for url, path in ((f"http://{host}:{port}", "/healthz"), (f"http://{host}:{metrics_port}", "/metrics")):
                async with anybody(url) as client:
                    assert (await client.get(path)).status_code == 200
        async with api.client() as client:
            await client.get("/v1/usage", headers={"X-Forwarded-For": "192.0.2.7"})

        async def is_named() -> bool:  # the line is written after the answer
            return "192.0.2.7" in {line.get("client") for line in log_lines(tmp_path)}

        await eventually(is_named)


async def _ask(api: Api) -> None:
    async with anybody(api.base) as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_a_process_that_dies_is_replaced_and_the_others_go_on(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with process(postgres, tmp_path, **TWO) as api:
        victim, survivor = children(api)
        victim.kill()

        async def replaced() -> bool:
            return {child.pid for child in children(api)} > {survivor.pid} and len(children(api)) == 2

        await eventually(replaced)
        await _ask(api)


async def test_sigterm_ends_all_of_them_and_exits_0(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with process(postgres, tmp_path, **TWO) as api:
        pids = [child.pid for child in children(api)]
        terminate(api)
        assert await ended(api) == 0
        assert not any(psutil.pid_exists(pid) for pid in pids)
        with pytest.raises(httpx.ConnectError):
            await _ask(api)


async def test_no_process_outlives_a_parent_that_was_killed(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with process(postgres, tmp_path, **TWO) as api:
        orphans = children(api)
        assert api.process is not None
        api.process.send_signal(signal.SIGKILL)
        await ended(api)

        async def gone() -> bool:
            return not any(is_alive(orphan) for orphan in orphans)

        await eventually(gone)


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.status()) != psutil.STATUS_ZOMBIE
    return False
