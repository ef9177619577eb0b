"""`python -m bench`: ratios to bare limits and to other servers that do the same, all measured in one run.

It starts the real services on loopback, lets ours and the others do the same work in turns, and prints two tables. One
has the ratios, each beside its target. The other has the counts. Wall-clock figures need an otherwise idle machine; CPU
columns and counts do not.
"""

import argparse
import asyncio
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.tools import build

from bench import load, matrix
from bench.contenders import synapse, tusd
from bench.measure import FULL, QUICK, Amount, Effort, Listing, Row, amounts, legends, table
from bench.parts import Parts, started
from bench.resources import MIB
from bench.rows import counts, decoding, large, memory, on_s3, scans, small, speech
from media_core import logs

RESULTS = Path(__file__).parent / "results.md"
VERSIONS = ("uvicorn", "fastapi", "starlette", "pillow", "faster-whisper")
MEASUREMENTS: dict[str, Callable[[Parts, Effort], Awaitable[Sequence[Row | Amount | Listing]]]] = {
    "small": small.small,
    "duplicate": small.duplicates,
    "scan": scans.scan,
    "s3": on_s3.s3,
    "upload": large.upload,
    "upload-in-pieces": large.resumable,
    "download": large.download,
    "duplicate-large": large.duplicate,
    "thumbnails": decoding.thumbnails,
    "transcription": decoding.transcription,
    "speech": speech.speech,
    "matrix": matrix.matrix,
    "statements": counts.statements,
    "memory": memory.memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated, of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--quick", action="store_true", help="less work, fewer turns")
    parser.add_argument("--save", action="store_true", help=f"write bench/{RESULTS.name}")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(MEASUREMENTS)
    if unknown := [name for name in chosen if name not in MEASUREMENTS]:
        parser.error(f"no measurement is called {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    effort = QUICK if options.quick else FULL
    if shutil.disk_usage(tempfile.gettempdir()).free < 4 * effort.gigabyte:
        parser.error(f"{tempfile.gettempdir()} needs {4 * effort.gigabyte // MIB} MiB of free space (TMPDIR moves it)")
    logs.configure("text", "warning")  # of the workers in this process; the api logs to its file as always
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))  # ends as by Ctrl-C, and its children
    report, complete = asyncio.run(_run(chosen, effort))
    print(report)
    if options.save:
        RESULTS.write_text(f"# What `make bench` measured\n\n{report}\n")
    return 0 if complete else 1


async def _run(chosen: list[str], effort: Effort) -> tuple[str, bool]:
    """The report, and whether all chosen rows could be measured."""
    began = time.monotonic()
    at_first = os.getloadavg()[0]
    rows: list[Row] = []
    counted: list[Amount] = []
    listed: list[Listing] = []
    failed = False
    async with started() as parts:
        machine = await _machine(parts)
        for name, measurement in MEASUREMENTS.items():
            if name in chosen:
                _say(name)
                try:
                    seen = await measurement(parts, effort)
                except Exception as error:  # one that fails says so; all others are still measured
                    traceback.print_exception(error)
                    parts.without(f"{name} failed, with {type(error).__name__}: {error}")
                    failed = True
                    continue
                rows += [one for one in seen if isinstance(one, Row)]
                counted += [one for one in seen if isinstance(one, Amount)]
                listed += [one for one in seen if isinstance(one, Listing)]
        missing = parts.missing
    _say("")
    if load.WRK is None and {"small", "duplicate"} & set(chosen):
        missing.append(load.WITHOUT_WRK)
    seconds = time.monotonic() - began
    company = (
        f"Load when it began: {at_first:.1f}; it took {seconds:.0f} s, medians of {effort.turns} turns. "
        "A ratio is ours divided by theirs; of what is counted, less is better. "
        "must: what a figure has to reach; aim: the goal; reached: which of the two it did."
    )
    without = "\n".join(f"Without: {why.rstrip('.')}." for why in missing)
    tables = (table(rows) if rows else "", amounts(counted) if counted else "", legends([*rows, *counted]))
    tables += tuple(one.text for one in listed)
    return "\n\n".join(part for part in (machine, company, without, *tables) if part), not failed


async def _machine(parts: Parts) -> str:
    async with parts.tenant.api.database.transaction() as tx:
        postgres = await tx.value("SHOW server_version")
    versions = [f"PostgreSQL {postgres}", *(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)]
    versions += [f"Synapse {synapse.version()}", f"tusd {tusd.TOOL.version}"]
    versions += [f"{on_s3.SERVER} {build.TOOLS[on_s3.SERVER].version}", *_wrk()]
    system = f"{os.cpu_count()} cores ({_processor()}), {platform.system()}, Python {platform.python_version()}"
    return f"{system}, {', '.join(versions)}."


def _wrk() -> list[str]:
    if load.WRK is None:
        return []
    said = subprocess.run([load.WRK, "--version"], capture_output=True, text=True, check=False).stdout
    return [f"wrk {said.split()[1]}"]


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
