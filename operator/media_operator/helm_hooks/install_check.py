"""`python -m media_operator.helm_hooks.install_check NAMESPACE TENANT`: what `helm test` runs.

It makes a throw-away tenant and uses it as a client does: a harmless file comes back byte for byte, the EICAR test file
is never given out, a recording becomes text. The tenant is deleted in any case, with its bucket and its schema.

The transcription comes last, because it needs a model, which the chart does not bring. What worked before it is in the
log by then. The check asks for a text that is not empty; which words it has depends on the model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from media_core.auth import tokens
from media_core.upkeep.canary import EICAR
from media_operator import render
from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.cluster.kube import Kube, KubeError
from media_operator.tenant.spec import API_VERSION, KIND

READY_SECONDS = 300.0
"""Includes pulling the images."""
VERDICT_SECONDS = 180.0
"""A worker Job starts, takes the file and asks clamd."""
QUEUED_SECONDS = 180.0
"""A recording waits for its verdict and for a worker Job."""
TRANSCRIPT_SECONDS = 600.0
"""The worker fetches its model; the default one is about 0.5 GB."""
GONE_SECONDS = 180.0
AWAY_SECONDS = 60.0
"""The api answers 503 while PostgreSQL or S3 is away for a moment."""
POLL_SECONDS = 1.0
RECORDING = Path(__file__).with_name("greeting.wav")
"""Three seconds of English, synthesised."""
Seen = TypeVar("Seen")


class CheckFailed(Exception):
    """The text is a sentence for people."""


def manifest(namespace: str, name: str, *, transcription: bool, model: str = "") -> Object:
    """Of a tenant with the default model unless `model` names one."""
    asked: Object = {"enabled": False}
    if transcription:
        # These requests fit a small node. The operator sets the memory limit by the model.
        asked = {"maxParallel": 1, "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}}}
        asked |= {"model": model} if model else {}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "quota": {"maxStorageMb": 100, "maxUploadMb": 10},
            "storage": {"deletionPolicy": "Delete"},
            "api": {"replicas": 1},
            "transcription": asked,
        },
    }


async def check(kube: Kube, namespace: str, name: str, *, transcription: bool, model: str = "") -> None:
    """Raises CheckFailed, KubeError."""
    await _delete(kube, namespace, name)  # left by a run that was killed
    await kube.create(kinds.MEDIA_TENANT, manifest(namespace, name, transcription=transcription, model=model))
    try:
        tenant = await _until(lambda: _ready(kube, namespace, name), READY_SECONDS)
        _say(f"tenant {namespace}/{name} is ready")
        client = Client(tenant["status"]["endpoint"].rstrip("/"), await _token(kube, namespace, name))
        content = secrets.token_bytes(100_000)
        await asyncio.to_thread(client.expect, content, 200)
        _say("a file was uploaded, scanned and read back")
        await asyncio.to_thread(client.expect, EICAR, 404)
        _say("the EICAR test file is refused")
        if transcription:
            _say(f"a recording was transcribed: {await asyncio.to_thread(transcript, client)}")
    finally:
        await _delete(kube, namespace, name)
    _say("the tenant is deleted, and its data with it")


def transcript(client: Client) -> str:
    """The text of the recording. Raises CheckFailed, which names the chart's values to change."""
    try:
        return client.transcript(RECORDING.read_bytes())
    except CheckFailed as failed:
        of_model = (
            "While workers cannot fetch the model, the transcriptions of tenants fail in the same way. "
            "installCheck.transcription.model may be the path of a model in the workers' image; "
        )
        hint = of_model if "model_unavailable" in str(failed) else ""
        raise CheckFailed(
            f"{failed}\n{hint}installCheck.transcription.enabled=false turns this part of the check off."
        ) from None


async def _ready(kube: Kube, namespace: str, name: str) -> Object:
    tenant = await kube.get(kinds.MEDIA_TENANT, namespace, name) or {}
    conditions = {each["type"]: each for each in tenant.get("status", {}).get("conditions", [])}
    if conditions.get("Ready", {}).get("status") != "True":
        told = [f"  {each['type']}={each['status']} {each.get('message', '')}" for each in conditions.values()]
        told = told or ["  it has no conditions: no operator works on it"]
        raise CheckFailed("\n".join(["the tenant does not become ready:", *told]))
    return tenant


async def _token(kube: Kube, namespace: str, name: str) -> str:
    secret = await kube.get(kinds.SECRET, namespace, kinds.child_name(name, "signing-keys"))
    if secret is None:
        raise CheckFailed("the tenant has no signing key")
    key = json.loads(render.secret_values(secret)[render.SIGNING_KEYS])["keys"][0]
    lifetime = timedelta(seconds=2 * VERDICT_SECONDS + TRANSCRIPT_SECONDS + 60)
    scopes = ["media:read", "media:write", "transcribe"]
    return tokens.mint(key, tenant_id=name, subject="helm-test", scopes=scopes, lifetime=lifetime)


async def _delete(kube: Kube, namespace: str, name: str) -> None:
    async def gone() -> None:
        if await kube.get(kinds.MEDIA_TENANT, namespace, name) is not None:
            why = f"kubectl --namespace {namespace} describe mediatenant {name} says why"
            raise CheckFailed(f"the tenant is not deleted after {GONE_SECONDS:.0f} s: {why}")

    if await kube.get(kinds.MEDIA_TENANT, namespace, name) is not None:
        await kube.delete(kinds.MEDIA_TENANT, namespace, name)
        await _until(gone, GONE_SECONDS)


async def _until(look: Callable[[], Awaitable[Seen]], seconds: float) -> Seen:
    """What `look` returns as soon as it does not raise CheckFailed. After `seconds` its CheckFailed is raised."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await look()
        except CheckFailed:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Client:
    """The tenant's api, with the standard library alone."""

    base: str
    token: str

    def expect(self, content: bytes, status: int) -> None:
        """Uploads `content` and asks for it until the answer is final. Raises CheckFailed if that is not `status`."""
        media_id = self._data("/v1/media/upload", *_form(content))["media_id"]
        deadline = time.monotonic() + VERDICT_SECONDS
        while (answer := self._send(f"/v1/media/download/{media_id}"))[0] == 425:
            if time.monotonic() > deadline:
                raise CheckFailed(f"no verdict within {VERDICT_SECONDS:.0f} s: does clamd run? Do worker Jobs start?")
            time.sleep(POLL_SECONDS)
        if answer[0] != status or (status == 200 and answer[1] != content):
            raise CheckFailed(f"a download was answered {answer[0]} instead of {status}")

    def transcript(self, recording: bytes) -> str:
        """The text of `recording`, never empty. Raises CheckFailed with what the job says."""
        job_id = self._data("/v1/transcribe", *_form(recording))["job_id"]
        started = time.monotonic()
        while (job := self._data(f"/v1/jobs/{job_id}"))["status"] in ("queued", "running"):
            seconds = QUEUED_SECONDS if job["status"] == "queued" else TRANSCRIPT_SECONDS
            if time.monotonic() - started > seconds:
                raise CheckFailed(
                    f"the transcription is still {job['status']} after {seconds:.0f} s{_error(job)}: do worker Jobs "
                    "start? Is there room for them? kubectl get events says why a pod waits"
                )
            time.sleep(POLL_SECONDS)
        if job["status"] != "completed":
            raise CheckFailed(f"the transcription is {job['status']}{_error(job)}")
        if not (text := job["transcript"].strip()):
            raise CheckFailed("the transcription is completed, but no word was heard in the recording")
        return str(text)

    def _data(self, path: str, body: bytes | None = None, content_type: str = "") -> dict[str, Any]:
        """An answer's `data`."""
        status, answered = self._send(path, body, content_type)
        if status >= 300:
            raise CheckFailed(f"{path} was answered {status}")
        data: dict[str, Any] = json.loads(answered)["data"]
        return data

    def _send(self, path: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self.token}"} | ({"Content-Type": content_type} if content_type else {})
        request = urllib.request.Request(self.base + path, body, headers)  # noqa: S310  the operator's own URL
        deadline = time.monotonic() + AWAY_SECONDS
        while (answer := self._try(request, path))[0] == 503:  # a dependency of the api is away
            if time.monotonic() > deadline:
                words = answer[1].decode(errors="replace")
                raise CheckFailed(f"{path} was answered 503 for {AWAY_SECONDS:.0f} s: {words}")
            time.sleep(POLL_SECONDS)
        return answer

    def _try(self, request: urllib.request.Request, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            if error.code in (404, 425, 503):
                return error.code, error.read(500)
            raise CheckFailed(f"{path} was answered {error.code}: {error.read(500).decode(errors='replace')}") from None
        except OSError as error:
            raise CheckFailed(f"{self.base}{path} does not answer: {error}") from None


def _error(job: dict[str, Any]) -> str:
    """The error of a failed job or of its last attempt, in brackets; empty: none."""
    return f" ({job['error']['code']}: {job['error']['detail']})" if job.get("error") else ""


def _form(content: bytes) -> tuple[bytes, str]:
    """A multipart body with one file, and its content type."""
    boundary = secrets.token_hex(16)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="check.bin"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _say(line: str) -> None:
    print(line, flush=True)


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m media_operator.helm_hooks.install_check")
    parser.add_argument("namespace")
    parser.add_argument("name", help="name of the tenant that is made and deleted")
    parser.add_argument("--without-transcription", dest="transcription", action="store_false")
    parser.add_argument("--model", default="", help="spec.transcription.model of that tenant; default: its default")
    return parser.parse_args(given)


async def main(asked: argparse.Namespace) -> int:
    """Exit status; the reason is on stderr."""
    async with await Kube.connect() as kube:
        try:
            await check(kube, **vars(asked))
        except (CheckFailed, KubeError) as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments(sys.argv[1:]))))
