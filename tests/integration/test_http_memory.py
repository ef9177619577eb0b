"""Memory does not depend on how large a file is: the api process, measured by the kernel."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from media_operator.embedded.postgres import EmbeddedPostgres
from tests.integration.api_server import Api, process
from tests.integration.tenancy import GENEROUS, MIB
from tests.integration.test_http_uploads import head_of, read_answer

HEAD = b'--xyzzy\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'
TAIL = b"\r\n--xyzzy--\r\n"


def reset_peak(api: Api) -> int:
    """Bytes resident now; the peak counts from here."""
    assert api.process is not None
    Path(f"/proc/{api.process.pid}/clear_refs").write_text("5")
    return _status(api, "VmRSS")


def peak(api: Api) -> int:
    return _status(api, "VmHWM")


def _status(api: Api, name: str) -> int:
    assert api.process is not None
    lines = Path(f"/proc/{api.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


async def send(api: Api, mebibytes: int) -> int:
    """Uploads so many MiB of what repeats nowhere; the status."""
    block = os.urandom(MIB - 8)
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(head_of(api, len(HEAD) + mebibytes * MIB + len(TAIL)) + HEAD)
    for number in range(mebibytes):
        writer.write(block)
        writer.write(number.to_bytes(8, "big"))
        await writer.drain()
    writer.write(TAIL)
    status, _, _ = await read_answer(reader)
    writer.close()
    return status


async def test_an_upload_of_a_gibibyte_takes_ten_megabytes_and_32_at_once_what_32_buffers_take(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with process(postgres, tmp_path, applied=replace(GENEROUS, max_bytes=4096 * MIB)) as api:
        assert await send(api, 9) == 201  # what is loaded and allocated once is not the upload's
        before = reset_peak(api)
        assert await send(api, 1024) == 201
        assert peak(api) - before <= 10 * 1000 * 1000
        before = reset_peak(api)
        assert await asyncio.gather(*(send(api, 12) for _ in range(32))) == [201] * 32
        assert peak(api) - before <= 32 * 8 * MIB + 10 * MIB
