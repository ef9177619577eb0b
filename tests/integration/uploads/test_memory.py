"""The api's memory while it takes uploads, as the kernel counts it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from bench.resources import MIB, Resources
from bench.rows.memory import CROWD_MAY_TAKE, LARGE_MAY_TAKE, crowd_of_uploads, large_upload

from media_core.policy import Policy
from media_core.uploads.capacity import MOST_BYTES
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.http.test_uploads import form, head_of, read_answer
from tests.integration.servers.api import Api, process

ROOMY = Policy(max_bytes=8192 * MIB, max_upload_bytes=2048 * MIB, max_transcription_seconds_per_day=0)


@pytest.fixture(scope="module")
async def tenant_process(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    async with process(postgres, tmp_path_factory.mktemp("memory"), applied=ROOMY, preloaded=False) as api:
        yield api


def _used_by(api: Api) -> Resources:
    assert api.process is not None
    return Resources.of(api.process.pid)


async def test_a_gibibyte_upload_needs_no_more_than_10_mib_of_memory(tenant_process: Api) -> None:
    api, used = tenant_process, _used_by(tenant_process)
    await asyncio.to_thread(large_upload, api.address, api.token(), used, 64 * MIB)  # loads what stays loaded
    growth = await asyncio.to_thread(large_upload, api.address, api.token(), used, 1024 * MIB)
    assert growth <= LARGE_MAY_TAKE, f"{growth / MIB:.1f} MiB"


async def test_32_uploads_at_once_need_their_buffers_and_no_more_than_10_mib_of_memory(tenant_process: Api) -> None:
    api, used = tenant_process, _used_by(tenant_process)
    await asyncio.to_thread(large_upload, api.address, api.token(), used, 64 * MIB)
    growth = await asyncio.to_thread(crowd_of_uploads, api.address, api.token(), used)
    assert growth <= CROWD_MAY_TAKE, f"{growth / MIB:.1f} MiB"


STALLED = 500


async def test_500_clients_that_send_half_a_file_and_stall_take_no_more_than_the_container_has_for_uploads(
    tenant_process: Api,
) -> None:
    api, used = tenant_process, _used_by(tenant_process)
    await asyncio.to_thread(crowd_of_uploads, api.address, api.token(), used)
    used.reset()
    length = 7 * MIB
    sent = form(bytes(length))[: length - MIB]
    answered: list[tuple[int, dict[str, str]]] = []
    stalled: list[asyncio.StreamWriter] = []

    async def stall() -> None:
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(head_of(api, length + 200, "Expect: 100-continue"))
        status, headers, _ = await read_answer(reader)
        if status == 100:  # there is room for it: only now it sends
            stalled.append(writer)
            writer.write(sent)
            await writer.drain()
        else:
            answered.append((status, headers))
            writer.close()

    try:
        async with asyncio.timeout(120):
            await asyncio.gather(*(stall() for _ in range(STALLED)))
        assert len(stalled) * 7 * MIB <= MOST_BYTES
        assert len(stalled) + len(answered) == STALLED
        assert {status for status, _ in answered} == {503}
        assert all(headers["retry-after"] for _, headers in answered)
        assert used.peak_growth() <= MOST_BYTES + 64 * MIB
        async with api.client() as client:  # and small requests are served
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/v1/usage")).status_code == 200
    finally:
        for writer in stalled:
            writer.close()
