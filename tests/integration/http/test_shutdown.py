"""The api as a process: how it starts, what it logs and measures, and how it ends."""

import asyncio
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import recording
from tests.integration.http.test_uploads import form, head_of, read_answer
from tests.integration.servers.api import Api, anybody, eventually, left, log_lines, process, start, upload
from tests.integration.tenancy import MIB
from tests.stopwatch import Stopwatch


async def ended(api: Api) -> int:
    assert api.process is not None
    async with asyncio.timeout(60):
        return await asyncio.to_thread(api.process.wait)


def terminate(api: Api) -> None:
    assert api.process is not None
    api.process.send_signal(signal.SIGTERM)


async def refuses_connections(api: Api) -> bool:
    try:
        _, writer = await asyncio.open_connection(*api.address)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_sigterm_finishes_the_upload_under_way_ends_streams_at_once_and_exits_0(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with process(postgres, tmp_path) as api, api.client() as client:
        talk = recording([440], "wav", "pcm_s16le")
        submitted = await client.post("/v1/transcribe", files={"file": ("talk.wav", talk)})
        job_id = submitted.json()["data"]["job_id"]
        body = form(b"u" * (12 * MIB))
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(head_of(api, len(body)) + body[: 10 * MIB])

        async def under_way() -> bool:
            return (await left(api)).reserved > 0

        await eventually(under_way)
        async with client.stream("GET", f"/v1/jobs/{job_id}/events") as events:
            lines = events.aiter_lines()
            assert (await anext(lines)).startswith("event: ")
            told = Stopwatch()
            terminate(api)
            async for _ in lines:
                pass
            assert told.seconds() < 10
        await eventually(lambda: refuses_connections(api))
        writer.write(body[10 * MIB :])
        status, headers, _ = await read_answer(reader)
        assert (status, headers["connection"]) == (201, "close")
        assert await ended(api) == 0
        assert (await left(api)).media == 2
        assert (await left(api)).reservations == 0
    assert log_lines(tmp_path)[-1]["event"] == "stopped"


async def test_an_upload_that_takes_too_long_to_finish_is_cut_off_and_leaves_nothing(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with process(postgres, tmp_path, MEDIA_API_SHUTDOWN_SECONDS="1") as api:
        before = await left(api)
        _, writer = await asyncio.open_connection(*api.address)
        writer.write(head_of(api, 20 * MIB) + form(b"u" * (10 * MIB)))

        async def under_way() -> bool:
            return (await left(api)).reserved > 0

        await eventually(under_way)
        terminate(api)
        assert await ended(api) == 0
        writer.close()
        assert await left(api) == before


async def test_one_line_a_request_with_its_id_and_no_secret_in_the_log_and_figures_by_route(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with (
        process(postgres, tmp_path) as api,
        api.client() as client,
        anybody(api.metrics_base or "") as prometheus,
    ):
        uploaded = await upload(client, b"x" * 5000, "a.bin")
        await api.verdict(uploaded["sha256"])
        signed = (await client.get(f"/v1/media/signed/{uploaded['media_id']}")).json()["data"]["url"]
        assert (await client.get(signed)).status_code == 200
        await client.get(f"/v1/media/download/{uploaded['media_id']}", headers={"X-Request-Id": "mine"})
        await client.get("/v1/nothing/secret-id")
        metrics = (await prometheus.get(f"{api.metrics_base}/metrics")).text
        assert (await client.get("/metrics")).status_code == 404
        token = client.headers["authorization"].removeprefix("Bearer ")
        logged = (tmp_path / "api.log").read_text()
        mine = [line for line in log_lines(tmp_path) if line.get("request_id") == "mine"]
    assert len(mine) == 1
    expected = {
        "event": "request",
        "method": "GET",
        "route": "/v1/media/download/{media_id}",
        "path": f"/v1/media/download/{uploaded['media_id']}",
        "status": 200,
        "sent": 5000,
        "subject": "alice",
        "level": "info",
    }
    assert expected.items() <= mine[0].items()
    assert {"time", "milliseconds", "received", "client"} <= mine[0].keys()
    for secret in (
        token,
        token.split(".")[2],
        "Signature=",
        "signature=",
        api.tenant.url.split("@", maxsplit=1)[0].rpartition(":")[2],
    ):
        assert secret not in logged
    for line in (
        'media_api_requests_total{method="POST",route="/v1/media/upload",status="201"} 1.0',
        'media_api_sent_bytes_total{method="GET",route="/v1/media/download/{media_id}"} 5000.0',
        'media_api_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        "media_api_requests_in_flight 0.0",
    ):
        assert line in metrics
    assert 'media_api_request_seconds_bucket{le="0.005",method="POST",route="/v1/media/upload"}' in metrics
    assert uploaded["media_id"] not in metrics


def run(**environment: str) -> tuple[int, str]:
    child = start(environment, subprocess.PIPE)
    _, error = child.communicate(timeout=60)
    return child.returncode, error.decode()


def test_settings_that_are_missing_or_wrong_are_named_one_a_line() -> None:
    code, said = run(MEDIA_API_PORT="many")
    assert code == 2
    lines = said.splitlines()
    assert lines
    assert all(line.startswith("MEDIA_") for line in lines)


def test_a_store_that_can_not_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    for wrong in ({"MEDIA_STORE_SIGNING_KEY": "short"}, {"MEDIA_STORE_SIGNING_KEY": ""}, {"MEDIA_STORE": "s3"}):
        code, said = run(**complete(tmp_path, **wrong))
        assert code == 2
        assert all(line.startswith("MEDIA_S") for line in said.splitlines())
        assert "Traceback" not in said


def complete(folder: Path, **changed: str) -> dict[str, str]:
    return {
        "MEDIA_TENANT_ID": "acme",
        "MEDIA_DATABASE_URL": "postgresql+psycopg://u:p@127.0.0.1:1/x",
        "MEDIA_STORE_FOLDER": str(folder),
        "MEDIA_STORE_SIGNING_KEY": "k" * 32,
        "MEDIA_JWKS_FILE": str(folder / "jwks.json"),
        **changed,
    }


@pytest.mark.parametrize("name", ["MEDIA_API_PORT", "MEDIA_API_METRICS_PORT"])
def test_a_port_in_use_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, said = run(**complete(tmp_path, **{"MEDIA_API_PORT": "0", name: port}))
    assert code == 1
    assert len(said.splitlines()) == 1
    assert port in said
    assert "in use" in said
