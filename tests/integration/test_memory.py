"""The api's memory while it takes uploads, as the kernel counts it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from bench.memory import CROWD_MAY_TAKE, LARGE_MAY_TAKE, crowd_of_uploads, large_upload
from bench.resources import MIB, Resources

from media_core.policy import Policy
from media_operator.embedded.postgres import EmbeddedPostgres
from tests.integration.api_server import Api, process

ROOMY = Policy(max_bytes=8192 * MIB, max_upload_bytes=2048 * MIB, max_transcription_seconds_per_day=0)


@pytest.fixture(scope="module")
async def tenant_process(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    async with process(postgres, tmp_path_factory.mktemp("memory"), applied=ROOMY) as api:
        yield api


def _used_by(api: Api) -> Resources:
    assert api.process is not None
    return Resources.of(api.process.pid)


async def test_a_gibibyte_upload_needs_no_more_than_10_mib_of_memory(tenant_process: Api) -> None:
    api, used = tenant_process, _used_by(tenant_process)
    await asyncio.to_thread(large_upload, api.address, api.token(), used, 64 * MIB)  # what a first upload loads stays
    growth = await asyncio.to_thread(large_upload, api.address, api.token(), used, 1024 * MIB)
    assert growth <= LARGE_MAY_TAKE, f"{growth / MIB:.1f} MiB"


async def test_32_uploads_at_once_need_their_buffers_and_no_more_than_10_mib_of_memory(tenant_process: Api) -> None:
    api, used = tenant_process, _used_by(tenant_process)
    await asyncio.to_thread(large_upload, api.address, api.token(), used, 64 * MIB)
    growth = await asyncio.to_thread(crowd_of_uploads, api.address, api.token(), used)
    assert growth <= CROWD_MAY_TAKE, f"{growth / MIB:.1f} MiB"
