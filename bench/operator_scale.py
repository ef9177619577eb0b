"""Many MediaTenants on one operator: time, writes, memory. `python -m bench.operator_scale [TENANTS]`

The control plane, S3, IAM and PostgreSQL are real; no pod runs. The bounds are on counts, never on seconds:

    writes per new tenant    at most its children + 2 (its status, before and after its pods exist)
    writes of a resync       0
    writes of a restart      0
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tests.cluster.control_plane.api import Api
from tests.cluster.control_plane.operator_process import USER, Bench, Replica, Team, bench, condition_of, install_crd
from tests.cluster.control_plane.server import ControlPlane

from media_operator.cluster import kinds

NAMESPACE = "scale"
CHILDREN = 11
"""Of a tenant with nothing but defaults: see `test_operator.py`."""
IN_FLIGHT = 20


async def ready(made: Bench) -> int:
    """Tenants to which all has been done that can be done without pods."""
    found = await made.api.get(kinds.MEDIA_TENANT.path(NAMESPACE))
    reasons = [condition_of(each, "ApiReady") for each in found["items"]]
    return sum(each is not None and each["reason"] in ("ApiStarting", "ApiAnswers") for each in reasons)


def megabytes(replica: Replica) -> int:
    return round(psutil.Process(replica.process.pid).memory_info().rss / 1e6)


def writes(made: Bench, since: int) -> int:
    return len(made.control_plane.writes(USER, since=since, but="leases"))


async def quiet(made: Bench) -> None:
    """Nothing was written for ten seconds."""
    while True:
        since = made.control_plane.mark()
        await asyncio.sleep(10)
        if writes(made, since) == 0:
            return


async def measure(count: int) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="media-scale-"))
    async with ControlPlane(folder / "control-plane") as control_plane:
        async with Api(control_plane) as api:
            await install_crd(api)
            await api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        async with bench(control_plane, folder) as made:
            return await _measure(made, count)


async def _measure(made: Bench, count: int) -> bool:
    team = Team(made, NAMESPACE)
    replica = await made.operator(resync_seconds="3600")
    limit = asyncio.Semaphore(IN_FLIGHT)

    async def declare(number: int) -> None:
        async with limit:
            await team.apply(f"t{number:04}")

    mark, began = made.control_plane.mark(), time.monotonic()
    await asyncio.gather(*map(declare, range(count)))
    while (done := await ready(made)) < count:
        print(f"\r{done} of {count} after {time.monotonic() - began:.0f} s", end="", flush=True)
        await asyncio.sleep(2)
    seconds = time.monotonic() - began
    await quiet(made)  # the Deployments' own statuses follow, and one status write each
    per_tenant = writes(made, mark) / count
    print(f"\r{count} tenants: {seconds:.0f} s, {per_tenant:.2f} writes each, {megabytes(replica)} MB")
    replica.stop()

    mark, began = made.control_plane.mark(), time.monotonic()
    again = await made.operator("again", resync_seconds="20")
    await asyncio.sleep(60)
    restarted = writes(made, mark)
    print(f"restart and 60 s of resyncs: {restarted} writes, {megabytes(again)} MB")
    for write in made.control_plane.writes(USER, since=mark, but="leases")[:20]:
        print(f"  {write}")
    return per_tenant <= CHILDREN + 2 and restarted == 0


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    if not asyncio.run(measure(count)):
        print("over its bounds")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
