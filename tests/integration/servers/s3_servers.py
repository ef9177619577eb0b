"""Real S3 servers for tests: versitygw and MinIO on free loopback ports, and one named by the environment.

`MEDIA_TEST_S3_ENDPOINT`, `_ACCESS_KEY`, `_SECRET_KEY`, `_BUCKET` (and `_REGION`) name a server of yours; the tests
write below `tenant/t...` in that bucket and remove what they wrote.

versitygw can have its IAM server beside it, which speaks AWS's IAM API, and keeps versions of objects.
"""

import asyncio
import base64
import ctypes
import os
import secrets
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr

from media_core.store import S3Settings
from media_operator.settings import StoreAdminSettings
from tests.ports import free_port
from tests.tools import build

KMS_KEY = "media-key"
"""MinIO's."""
NAMED = "MEDIA_TEST_S3_ENDPOINT"
KINDS = ("versitygw", "minio", *(["named"] if NAMED in os.environ else []))


@dataclass(frozen=True)
class S3Server:
    """A running server. `folder` holds its data and log; None for a server named by the environment."""

    settings: S3Settings
    folder: Path | None = None
    process: "subprocess.Popen[bytes] | None" = None
    iam: "subprocess.Popen[bytes] | None" = None
    iam_endpoint: str | None = None

    def stop(self) -> None:
        for process in (self.process, self.iam):
            if process:
                _end(process)

    def admin(self, credentials: Literal["iam", "role", "shared"] = "iam") -> StoreAdminSettings:
        """The operator's settings for it."""
        return StoreAdminSettings(
            endpoint=self.settings.endpoint,
            public_endpoint=self.settings.public_endpoint,
            region=self.settings.region,
            access_key_id=self.settings.access_key_id,
            secret_access_key=self.settings.secret_access_key,
            credentials=credentials,
            iam_endpoint=self.iam_endpoint,
            role_arn="arn:minio:iam:::role/of-no-meaning-there" if credentials == "role" else "",
            role_seconds=900,  # MinIO's shortest, as AWS's
            sts_endpoint=self.settings.endpoint,
        )


async def start(kind: str, folder: Path, like: S3Server | None = None, *, iam: bool = False) -> S3Server:
    """Starts a server of this kind on the data in `folder`, and returns once it has its bucket.

    `like`: an ended server whose address and keys it takes over. `iam`: with users, keys and policies, and with
    versions of objects (versitygw only).
    """
    if kind == "named":
        return S3Server(_named())
    settings = like.settings if like else nobody()
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    tool = await asyncio.to_thread(build.provide, build.TOOLS[kind])
    address = settings.endpoint.removeprefix("http://")
    access_key, secret_key = settings.access_key_id, settings.secret_access_key.get_secret_value()
    commands: dict[str, tuple[list[str | Path], dict[str, str]]] = {
        "versitygw": (
            [tool, "--port", address, "--quiet", "posix", data],
            {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key},
        ),
        "minio": (
            [tool, "server", "--quiet", "--address", address, data],
            {"MINIO_ROOT_USER": access_key, "MINIO_ROOT_PASSWORD": secret_key, "MINIO_BROWSER": "off"}
            | {"MINIO_KMS_SECRET_KEY": f"{KMS_KEY}:{base64.b64encode(bytes(32)).decode()}"},  # encrypts who asks for it
        ),
    }
    command, environment = commands[kind]
    iam_process, iam_endpoint = None, None
    if iam:
        (users, versions), socket_path = (folder / "iam", folder / "versions"), folder / "iam.sock"
        for made in (users, versions):
            made.mkdir(exist_ok=True)
        socket_path.unlink(missing_ok=True)
        iam_endpoint = (like and like.iam_endpoint) or f"http://127.0.0.1:{free_port()}"
        iam_process = _spawn(
            [tool, "--port", iam_endpoint.removeprefix("http://"), "--quiet", "iam", "--dir", users],
            {**environment, "VGW_IAM_PRIVATE_PORTS": str(socket_path)},
            folder,
        )
        command = [tool, "--port", address, "--quiet", "--iam-standalone-endpoint", socket_path, "posix"]
        command += ["--versioning-dir", versions, data]
        async with asyncio.timeout(180):
            # A gateway that is started too early tries again only after seconds.
            while not socket_path.exists() and iam_process.poll() is None:  # noqa: ASYNC110 - a server tells nobody
                await asyncio.sleep(0.02)
    server = S3Server(settings, folder, _spawn(command, environment, folder), iam_process, iam_endpoint)
    try:
        await _answers(server)
    except BaseException:
        server.stop()
        raise
    return server


def _spawn(command: list[str | Path], environment: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "GOGC": os.environ.get("GOGC", "100"), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_end_with_the_tests,
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGCONT)  # a stopped process would not handle the next signal
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _answers(server: S3Server) -> None:
    assert server.process
    assert server.folder
    async with asyncio.timeout(180):
        while True:
            try:
                return await asyncio.to_thread(make_bucket, server.settings)
            except (BotoCoreError, ClientError):
                if server.process.poll() is not None:
                    raise RuntimeError((server.folder / "server.log").read_text()[-2000:]) from None
                await asyncio.sleep(0.05)  # no server tells when it listens


def make_bucket(settings: S3Settings) -> None:
    """Makes the settings' bucket, unless it is there. Raises BotoCoreError, ClientError."""
    client = boto3.client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key.get_secret_value(),
        config=Config(connect_timeout=3, read_timeout=20, retries={"total_max_attempts": 1}),
    )
    try:
        client.create_bucket(Bucket=settings.bucket)
    except client.exceptions.BucketAlreadyOwnedByYou:
        pass
    finally:
        client.close()


def nobody() -> S3Settings:
    """New keys, and an address where nobody listens yet."""
    return S3Settings(
        endpoint=f"http://127.0.0.1:{free_port()}",
        bucket="media-tests",
        access_key_id="tests",
        secret_access_key=SecretStr(secrets.token_hex(16)),
    )


def _named() -> S3Settings:
    given = {name: os.environ.get(f"MEDIA_TEST_S3_{name}", "") for name in ("ACCESS_KEY", "SECRET_KEY", "BUCKET")}
    if missing := [f"MEDIA_TEST_S3_{name}" for name, value in given.items() if not value]:
        raise RuntimeError(f"{NAMED} is set, but not {', '.join(missing)}")
    return S3Settings(
        endpoint=os.environ[NAMED],
        bucket=given["BUCKET"],
        region=os.environ.get("MEDIA_TEST_S3_REGION", "us-east-1"),
        access_key_id=given["ACCESS_KEY"],
        secret_access_key=SecretStr(given["SECRET_KEY"]),
    )


def _end_with_the_tests() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also when pytest itself is killed
