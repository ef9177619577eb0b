"""A server whose certificate is of a private authority is trusted by every library that talks to the outside, by the
variables that pods get for it."""

import asyncio
import http.server
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from media_core.errors import Unavailable
from media_core.events import outgoing
from media_core.store import S3Settings, S3Store
from media_operator.backends import issuers
from media_operator.backends.buckets import Buckets
from media_operator.render.environment import TRUST, TRUSTED, outside_environment
from media_operator.settings import PlatformSettings, StoreAdminSettings

CLIENT = """
import asyncio, sys
from datetime import timedelta
from pydantic import SecretStr
import boto3, httpx, urllib.request
from media_core.store import S3Settings, S3Store
url = sys.argv[1]
settings = S3Settings(endpoint=url, bucket="bucket", access_key_id="a", secret_access_key=SecretStr("b"))
store = S3Store(settings, "acme")
calls = {
    "obstore": lambda: asyncio.run(store.put("tenant/acme/a", b"x")),
    "boto3": lambda: store._calls._client.put_object(Bucket="bucket", Key="k", Body=b""),
    "httpx": lambda: httpx.get(url, timeout=120).raise_for_status(),
    "urllib": lambda: urllib.request.urlopen(url),
}
for name, call in calls.items():
    try:
        call()
    except Exception as error:
        print(name, type(error).__name__, file=sys.stderr)
    else:
        print(name)
"""


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("ETag", f'"{0:032x}"')  # as S3 has it: another one would be asked about again
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_POST = do_GET  # noqa: N815  as http.server calls them

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return made(tmp_path, "private authority")


def made(folder: Path, name: str) -> Path:
    """PEM file of an authority, beside `server.pem` with certificate and key of localhost."""
    now, keys = datetime.now(UTC), (ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()))
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (name, "localhost")]

    def certificate(number: int) -> x509.Certificate:
        builder = x509.CertificateBuilder(names[0], names[number], keys[number].public_key(), number + 1)
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
        if number:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return builder.sign(keys[0], hashes.SHA256())

    pem = [certificate(number).public_bytes(serialization.Encoding.PEM) for number in (0, 1)]
    key = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(exist_ok=True)
    (folder / "server.pem").write_bytes(pem[1] + key)
    (folder / "authority.pem").write_bytes(pem[0])
    return folder / "authority.pem"


@pytest.fixture
def server(authority: Path) -> Iterator[str]:
    with serving(authority) as url:
        yield url


@contextmanager
def serving(authority: Path, port: int = 0) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.with_name("server.pem"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Answering) as serving:
        serving.socket = context.wrap_socket(serving.socket, server_side=True)
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"https://localhost:{serving.server_address[1]}"
        serving.shutdown()


def reached(url: str, environment: dict[str, str]) -> set[str]:
    """The libraries that got an answer."""
    ours = ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    kept = {name: value for name, value in os.environ.items() if name not in ours and "proxy" not in name.lower()}
    ran = subprocess.run(
        [sys.executable, "-c", CLIENT, url], env=kept | environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_every_library_trusts_the_authority_that_a_pod_is_told(server: str, authority: Path) -> None:
    platform = PlatformSettings(
        api_image="api:1", worker_image="workers:1", clamd_host="clamd", trust_config_map="authorities"
    )
    told = {
        name: value.replace(f"{TRUST}/{TRUSTED}", str(authority))
        for name, value in outside_environment(platform).items()
    }
    assert reached(server, told) == {"obstore", "boto3", "httpx", "urllib"}
    assert reached(server, {}) == set()


async def test_the_operator_says_why_it_does_not_accept_a_certificate(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    settings = StoreAdminSettings(endpoint=server, access_key_id="a", secret_access_key=SecretStr("b"))
    buckets = Buckets(settings)
    with pytest.raises(Unavailable, match=f"the certificate of S3 at {server} is not accepted: .*issuer certificate"):
        await buckets.observe("media-acme")
    await buckets.aclose()


async def test_http_and_https_that_are_mixed_up_are_said(server: str) -> None:
    async def said(endpoint: str) -> str:
        settings = StoreAdminSettings(endpoint=endpoint, access_key_id="a", secret_access_key=SecretStr("b"))
        buckets = Buckets(settings)
        with pytest.raises(Unavailable) as raised:
            await buckets.observe("media-acme")
        await buckets.aclose()
        return raised.value.detail

    assert "perhaps its port is for https" in await said(server.replace("https://", "http://"))
    plain = await asyncio.start_server(_answers_without_tls, "127.0.0.1", 0)
    async with plain:
        address = f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}"
        assert f"{address} does not speak TLS as we do: perhaps its port is for http" in await said(address)


async def _answers_without_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


async def test_authorities_that_are_renewed_are_trusted_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = (made(tmp_path / name, name) for name in ("the one before", "the one after"))
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(before.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))

    async def reach(store: S3Store, url: str) -> None:
        await store.put("tenant/acme/a", b"x")
        assert (await outgoing.post(f"{url}/", b"{}", {}, [ip_network("127.0.0.0/8")])).status == 200
        await issuers._fetch(url, local=True)

    with serving(before) as url:
        settings = S3Settings(endpoint=url, bucket="bucket", access_key_id="a", secret_access_key=SecretStr("b"))
        store = S3Store(settings, "acme")
        await reach(store, url)
    with serving(after, int(url.rpartition(":")[2])):
        with pytest.raises(Unavailable, match="the certificate of S3 is not accepted: UnknownIssuer"):
            await store.put("tenant/acme/a", b"x")
        trusted.write_bytes(before.read_bytes() + after.read_bytes())
        await reach(store, url)
    await store.aclose()
