"""The commands of docs/install.md, "Backup and restore": another cluster has the same data, down to the last byte.

PostgreSQL, the operator's role (no superuser) and S3 are as in production. The api is the process of the tenant's pods,
with the environment that kubelet would give it. boto3 stands in for the page's `aws s3 sync`.
"""

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from media_core.auth import tokens
from media_operator.cluster import kinds
from media_operator.local.postgres import BINARIES
from tests.cluster.control_plane.api import Api, seen
from tests.cluster.control_plane.operator_process import ROOT, Bench, Replica, Team, bench, install_crd
from tests.cluster.control_plane.server import ControlPlane
from tests.cluster.without_pods.test_operator import secret, settled
from tests.integration.servers.api import eventually, preloaded_start
from tests.integration.servers.api import upload as upload_to
from tests.ports import free_port
from tests.tools import build

pytestmark = pytest.mark.control_plane

PAGE = ROOT / "docs" / "install.md"
PG_PROGRAMS = Path(sysconfig.get_path("purelib")) / BINARIES
LETTER, ARCHIVE = b"Dear restorer,\n", os.urandom(9 << 20)  # what is larger than 7.5 MiB takes another way in
LATE = b"PS: this came after the dump.\n"
NAMESPACE, ID, BUCKET = "team-a", "acme", "media-acme"
TENANT = {"tenantId": ID, "scan": {"pendingAccess": "All"}}
"""No scanner runs here, so files stay pending. The tenant lets its members read them, as a real one may."""


@pytest.fixture(scope="module")
async def lost(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Team]:
    """The cluster whose backup is taken."""
    async with cluster(tmp_path_factory.mktemp("lost")) as made:
        yield made


@pytest.fixture(scope="module")
async def operator(lost: Team) -> Replica:
    """That of the lost cluster. It has a tenant."""
    started = await start_operator(lost)
    await settled(lost, "acme", **TENANT)
    return started


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[Team]:
    """A second cluster, with empty backends."""
    async with cluster(tmp_path / "fresh") as made:
        yield made


@pytest.mark.usefixtures("operator")
async def test_a_dump_and_copied_buckets_are_a_working_tenant_in_a_fresh_cluster(
    lost: Team, fresh: Team, tmp_path: Path
) -> None:
    # A tenant with two files, beside the canary that each tenant has from when its api answers.
    await lost.act_as_kubelet(f"mt-{ID}")
    await lost.condition("acme", "ScannerReady", reason="CanaryPending")
    old_token = await token_of(lost)
    async with serving(lost, old_token, tmp_path) as client:
        canary = (await usage_of(client))["stored_bytes"]
        letter = await upload(client, LETTER, "letter.txt")
        archive = await upload(client, ARCHIVE, "archive.bin")
        usage = await usage_of(client)
    assert usage["stored_bytes"] == canary + len(LETTER) + len(ARCHIVE)

    # It is backed up: rows, objects, MediaTenants, and the tenant's signing keys. One file comes after its rows.
    shell = Shell(lost, tmp_path)
    shell.run("pg_dump")
    async with serving(lost, old_token, tmp_path) as client:
        await upload(client, LATE, "late.txt")
    before = await everything_of(lost)
    sync(lost, shell.run("for bucket in $(kubectl"), tmp_path)
    shell.run("kubectl get mediatenants")
    shell.run("keys=", 'kubectl --namespace "$NAMESPACE" get secret')

    # Another cluster gets them, in the order of the page.
    shell = Shell(fresh, tmp_path)
    shell.run("pg_restore")
    sync(fresh, shell.run("for bucket in $(ls"), tmp_path)
    restored = await everything_of(fresh)
    await start_operator(fresh)

    # Without the word `adopt` what another cluster owns is left alone.
    await fresh.apply("acme", **TENANT)
    await fresh.condition("acme", "Accepted", status="False", reason="Conflict")
    assert await everything_of(fresh) == restored
    await fresh.bench.api.delete(fresh.path(kinds.MEDIA_TENANT, "acme"))

    shell.run(
        "kubectl annotate --local",
        "kubectl apply",
        "kubectl wait mediatenants --all --all-namespaces --for=condition=S",
    )
    doubt = await fresh.condition("acme", "DatabaseReady", status="False", reason="DataMismatch")
    assert "schema tenant_acme was restored from a dump" in doubt["message"]
    await fresh.condition("acme", "ApiReady", reason="WaitingForDatabase")
    restored = await everything_of(fresh)

    # Nothing happens to it until somebody has said that these are the newest rows that there are.
    await asyncio.sleep(2)
    assert await everything_of(fresh) == restored
    shell.run("kubectl get mediatenants --all-namespaces --output jsonpath='{range", "sh -e accept.sh")
    await fresh.condition("acme", "ApiReady", reason="ApiStarting")
    await fresh.act_as_kubelet(f"mt-{ID}")
    shell.run("kubectl wait mediatenants --all --all-namespaces --for=condition=A", "kubectl annotate mediatenants")
    await fresh.condition("acme", "DatabaseReady", status="True")

    # It serves what the first had, byte for byte, and takes more.
    async with serving(fresh, await token_of(fresh), tmp_path) as client:
        assert await download(client, letter) == LETTER
        assert await download(client, archive) == ARCHIVE
        assert await usage_of(client) == usage
        reply = await upload(client, b"Thank you.\n", "reply.txt")
        assert await download(client, reply) == b"Thank you.\n"
        assert (await usage_of(client))["stored_bytes"] == usage["stored_bytes"] + len(b"Thank you.\n")
        of_old = {"Authorization": f"Bearer {old_token}"}
        assert (await client.get("/v1/usage", headers=of_old)).status_code == 401

    # What came after the dump has no row, and stays.
    late = f"tenant/{ID}/{hashlib.sha256(LATE).hexdigest()}"
    assert await sweep(fresh, tmp_path) == {"orphans_seen": 1, "orphans": 0, "mismatch": ""}
    assert late in objects_in(fresh, BUCKET)

    # Tokens that are out are good again with the keys that were kept.
    shell.run('kubectl --namespace "$NAMESPACE" patch secret')
    await published(fresh, old_token)
    async with serving(fresh, old_token, tmp_path) as client:
        assert await download(client, letter) == LETTER

    # What was backed up is as it was.
    assert await everything_of(lost) == before
    async with serving(lost, old_token, tmp_path) as client:
        assert await download(client, archive) == ARCHIVE


async def test_rows_restored_on_the_server_that_lost_them_are_the_tenants_again(
    lost: Team, operator: Replica, tmp_path: Path
) -> None:
    """The roles are still there, and say nothing of whose the tables are that came back."""
    token = await token_of(lost)
    async with serving(lost, token, tmp_path) as client:
        letter = await upload(client, LETTER, "letter.txt")
    shell = Shell(lost, tmp_path)
    shell.run("pg_dump")

    assert operator.stop() == 0
    await lost.bench.backends.sql("DROP DATABASE media WITH (FORCE)")
    await lost.bench.backends.sql("CREATE DATABASE media OWNER media")
    operator.start()
    gone = await lost.condition("acme", "DatabaseReady", reason="DataMismatch")
    assert "schema tenant_acme is new, but bucket media-acme belongs to another" in gone["message"]
    assert await run_sql(operator_url(lost.bench), "SELECT FROM pg_namespace WHERE nspname = 'tenant_acme'") == []

    shell.run("pg_restore")
    back = await lost.condition("acme", "DatabaseReady", reason="DataMismatch")
    await lost.seen(kinds.MEDIA_TENANT, "acme", lambda it: "restored from a dump" in json.dumps(it["status"]))
    assert back["status"] == "False"
    shell.run("kubectl get mediatenants --all-namespaces --output jsonpath='{range", "sh -e accept.sh")
    await lost.condition("acme", "DatabaseReady", status="True")
    async with serving(lost, token, tmp_path) as client:
        assert await download(client, letter) == LETTER
        await upload(client, b"Thank you.\n", "reply.txt")


# --- the commands ----------------------------------------------------------------------------------------------------


class Shell:
    """Where somebody pastes the page's commands, with one folder for their files. `aws` only says what it is to do."""

    def __init__(self, team: Team, folder: Path) -> None:
        kubectl = Path(build.provide(build.TOOLS["kubectl"])).parent
        self._folder = folder
        self._environment = {
            "PATH": f"{PG_PROGRAMS}:{kubectl}:{os.environ['PATH']}",
            "HOME": str(folder),
            "KUBECONFIG": str(team.bench.control_plane.kubeconfig),
            "OPERATOR_URL": plain(operator_url(team.bench)),
            "NAMESPACE": NAMESPACE,
            "ID": ID,
        }

    def run(self, *openings: str) -> str:
        """Runs the commands that begin like this in one shell; returns what they say."""
        script = ['aws() { echo "$*"; }', *map(documented, openings)]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(script)],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def documented(opening: str) -> str:
    """A command of the page's section: a line, or a loop; in a block or within the text."""
    section = PAGE.read_text(encoding="utf-8").partition("## Backup and restore\n")[2].partition("\n## ")[0]
    found = re.search(
        rf"^`?({re.escape(opening)}[^\n]*?(?:; do\n.*?^done)?)(?:`\.)?$", section, re.DOTALL | re.MULTILINE
    )
    assert found, f"docs/install.md has no command that begins with {opening!r}"
    return found[1]


def sync(team: Team, said: str, folder: Path) -> None:
    """What `aws s3 mb` and `aws s3 sync` do, told by their arguments, a command a line."""
    client = team.bench.backends.buckets._s3
    for line in said.splitlines():
        match line.split():
            case ["s3", "mb", bucket]:
                client.create_bucket(Bucket=bucket.removeprefix("s3://"))
            case ["s3", "sync", source, to, "--exclude", left_out] if source.startswith("s3://"):
                bucket = source.removeprefix("s3://")
                for key in objects_in(team, bucket):
                    if not fnmatch(key, left_out):
                        (folder / to / key).parent.mkdir(parents=True, exist_ok=True)
                        client.download_file(bucket, key, str(folder / to / key))
            case ["s3", "sync", source, to]:
                for path in (folder / source).rglob("*"):
                    if path.is_file():
                        key = str(path.relative_to(folder / source))
                        client.upload_file(str(path), to.removeprefix("s3://"), key)
            case _:
                raise AssertionError(f"aws {line}")


# --- two clusters ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Team]:
    """Its one namespace. PostgreSQL has what the page asks for: a role that may make roles, and a database for it."""
    async with ControlPlane(folder / "control-plane") as control_plane:
        async with Api(control_plane) as api:
            await install_crd(api)
        async with bench(control_plane, folder) as made:
            await made.api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            await made.backends.sql("CREATE ROLE media LOGIN CREATEROLE PASSWORD 'operator'")
            await made.backends.sql("CREATE DATABASE media OWNER media")
            yield Team(made, NAMESPACE)


def operator_url(bench: Bench) -> str:
    return bench.backends.postgres.url("media", "media", "operator")


async def start_operator(team: Team) -> Replica:
    return await team.bench.operator(database_url=operator_url(team.bench))


def plain(url: str) -> str:
    """As PostgreSQL's own programs read it."""
    return url.replace("postgresql+psycopg", "postgresql")


async def run_sql(url: str, *queries: str) -> list[Any]:
    """The last one's rows."""
    async with await psycopg.AsyncConnection.connect(plain(url)) as connection:
        for query in queries:
            answer = await connection.execute(query.encode())
        return await answer.fetchall() if answer.description else []


def objects_in(team: Team, bucket: str) -> dict[str, str]:
    """Key -> ETag."""
    pages = team.bench.backends.buckets._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {each["Key"]: each["ETag"] for page in pages for each in page.get("Contents", [])}


async def everything_of(team: Team) -> Any:
    """The rows of files and totals, whose schema and role are, and all objects, the mark among them."""
    admin = team.bench.backends.postgres.url("media")
    return [await run_sql(admin, query) for query in WHAT_COUNTS], objects_in(team, BUCKET)


WHAT_COUNTS = (
    "SELECT * FROM tenant_acme.blob ORDER BY sha256",
    "SELECT * FROM tenant_acme.media ORDER BY media_id",
    "SELECT * FROM tenant_acme.room_file ORDER BY media_id",
    "SELECT * FROM tenant_acme.usage",
    "SELECT obj_description('tenant_acme'::regnamespace)",
    "SELECT rolcanlogin, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'tenant_acme'",
)


# --- the tenant as its users see it ----------------------------------------------------------------------------------


async def token_of(team: Team) -> str:
    """Signed with the tenant's own key, as it is now."""
    held = await team.get(kinds.SECRET, f"mt-{ID}-signing-keys")
    assert held
    return tokens.mint(
        json.loads(secret(held, "signing-keys.json"))["keys"][0],
        tenant_id=ID,
        subject="tests",
        scopes=sorted(tokens.SCOPES),
        rooms=tokens.ALL,
        lifetime=timedelta(hours=1),
    )


async def published(team: Team, token: str) -> None:
    """Returns when the tenant's pods are told the key that signed this token."""
    kid = jwt.get_unverified_header(token)["kid"]
    path = team.path(kinds.CONFIG_MAP, f"mt-{ID}")
    await seen(team.bench.api, path, lambda it: kid in it["data"]["jwks.json"])


@asynccontextmanager
async def serving(team: Team, token: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The api as one of the tenant's pods would run it now, and a client of it."""
    port = free_port()
    environment = await environment_of_a_pod(team, folder)
    # Of a pod these are its own address; here only this machine is to reach it.
    environment |= {f"MEDIA_API_{name}": "127.0.0.1" for name in ("HOST", "METRICS_HOST")}
    environment |= {"MEDIA_API_PORT": str(port), "MEDIA_API_METRICS_PORT": "0"}
    process = preloaded_start(environment, folder / "api.log")
    try:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120) as client:
            try:
                await eventually(lambda: is_ready(client))
            except TimeoutError:
                said = (folder / "api.log").read_text()[-3000:]
                raise AssertionError(f"{said}\n{team.bench.last_words()}") from None
            yield client
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def environment_of_a_pod(team: Team, folder: Path) -> dict[str, str]:
    """What kubelet gives its container: plain variables, the Secret's, and the ConfigMap with the public keys."""
    deployment = await team.get(kinds.DEPLOYMENT, f"mt-{ID}") or {}
    credentials = await team.get(kinds.SECRET, f"mt-{ID}-credentials") or {}
    config = await team.get(kinds.CONFIG_MAP, f"mt-{ID}") or {}
    environment = {
        each["name"]: each.get("value") or secret(credentials, each["valueFrom"]["secretKeyRef"]["key"])
        for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    jwks = folder / "jwks.json"
    jwks.write_text(config["data"]["jwks.json"])
    return environment | {"MEDIA_JWKS_FILE": str(jwks)}


async def is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def sweep(team: Team, folder: Path) -> dict[str, Any]:
    """What the tenant's hourly Job does; some of what it says of itself."""
    environment = {**os.environ, **await environment_of_a_pod(team, folder), "MEDIA_LOG_FORMAT": "json"}
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "media_workers", "sweep"), env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, said = await done.communicate()
    assert done.returncode == 0, said
    (swept,) = [line for line in map(json.loads, said.splitlines()) if line["event"] == "swept"]
    return {name: swept[name] for name in ("orphans_seen", "orphans", "mismatch")}


async def upload(client: httpx.AsyncClient, content: bytes, name: str) -> str:
    """The id of the new item."""
    return str((await upload_to(client, content, name, room_id="lobby"))["media_id"])


async def download(client: httpx.AsyncClient, media_id: str) -> bytes:
    answer = await client.get(f"/v1/media/download/{media_id}")
    assert answer.status_code == 200, answer.text
    return answer.content


async def usage_of(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/v1/usage")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["data"]
    return found
