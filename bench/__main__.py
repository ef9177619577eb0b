"""`python -m bench`: ratios to the bare limit, all measured in one run on this machine.

Starts the real parts on loopback, lets ours, the bare limit and a peer do the same work in turns, prints one table.
Wall-clock figures need an otherwise idle machine; the CPU columns say the same with company.
"""

import argparse
import asyncio
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import text

from bench import memory
from bench.measure import Row, aligned, table
from bench.parts import Parts, started
from bench.resources import MIB
from bench.rows import FULL, MEASUREMENTS, QUICK, Effort
from media_core import logs

RESULTS = Path(__file__).parent / "results.md"
VERSIONS = ("uvicorn", "fastapi", "starlette", "python-multipart", "pillow", "faster-whisper", "clamd")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    names = [*MEASUREMENTS, "memory"]
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated, of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="under a minute: less work, fewer turns")
    parser.add_argument("--save", action="store_true", help=f"write bench/{RESULTS.name}")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"no measurement is called {', '.join(unknown)}; there are {', '.join(names)}")
    effort = QUICK if options.quick else FULL
    if shutil.disk_usage(tempfile.gettempdir()).free < 4 * effort.gigabyte:
        parser.error(f"{tempfile.gettempdir()} needs {4 * effort.gigabyte // MIB} MiB of free space (TMPDIR moves it)")
    logs.configure("text", "warning")  # of the workers in this process; the api logs to its file as always
    report = asyncio.run(_run(chosen, effort))
    print(report)
    if options.save:
        RESULTS.write_text(f"# What `make bench` measured\n\n{report}\n")
    return 0


async def _run(chosen: list[str], effort: Effort) -> str:
    began, load = time.monotonic(), os.getloadavg()[0]
    rows: list[Row] = []
    async with started(with_clamd="scan" in chosen) as parts:
        machine = await _machine(parts)
        for name, measurement in MEASUREMENTS.items():
            if name in chosen:
                _say(name)
                rows += await measurement(parts, effort)
        memories = ""
        if "memory" in chosen:
            _say("memory")
            memories = await _memory(parts, effort)
    _say("")
    seconds = time.monotonic() - began
    company = f"Load when it began: {load:.1f}; it took {seconds:.0f} s, medians of {effort.turns} turns."
    legends = "\n".join(f"- {row.what} - {row.legend}" for row in rows)
    return "\n\n".join(part for part in (machine, company, table(rows) if rows else "", legends, memories) if part)


async def _memory(parts: Parts, effort: Effort) -> str:
    address, token, used = parts.api.address, parts.token, parts.used
    await asyncio.to_thread(memory.large_upload, address, token, used, 64 * MIB)
    large = await asyncio.to_thread(memory.large_upload, address, token, used, effort.gigabyte)
    crowd = await asyncio.to_thread(memory.crowd_of_uploads, address, token, used)
    return aligned(
        [
            ("peak RSS of the api", "grows by", "may grow by"),
            (
                f"upload of {effort.gigabyte // MIB} MiB",
                f"{large / MIB:.1f} MiB",
                f"{memory.LARGE_MAY_TAKE / MIB:.1f} MiB",
            ),
            (f"{memory.CROWD} uploads at once", f"{crowd / MIB:.1f} MiB", f"{memory.CROWD_MAY_TAKE / MIB:.1f} MiB"),
        ]
    )


async def _machine(parts: Parts) -> str:
    async with parts.api.database.transaction() as tx:
        postgres = (await tx.execute(text("SHOW server_version"))).scalar_one()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in VERSIONS]
    system = f"{os.cpu_count()} cores ({_processor()}), {platform.system()}, Python {platform.python_version()}"
    return f"{system}, PostgreSQL {postgres}, {', '.join(versions)}."


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _say(doing: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{doing}{' ...' if doing else ''}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
