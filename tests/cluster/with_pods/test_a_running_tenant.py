"""What the users of a running tenant see: verdicts, the page of files, a refused uninstallation, an outage, changes.

All tests have the same tenant, one after the other.

While S3, clamd or PostgreSQL is away users have to wait, but nothing fails. All are taken away at once, briefly.
`MEDIA_OUTAGE_SECONDS=600` sets the time, and then takes each away by itself, too.
"""

import os
import re
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from playwright.async_api import expect

from media_operator.tenant.spec import schema_of
from tests.browser.chromium import PATIENCE, chromium, opened
from tests.cluster.machine import slowness
from tests.cluster.node.client import Client
from tests.cluster.node.installation import RELEASE, Installation
from tests.cluster.node.load import Clients
from tests.cluster.node.namespace import PLATFORM, Namespace
from tests.cluster.node.waiting import wait_until
from tests.cluster.with_pods.test_a_tenants_life import RECORDING, SAID
from tests.fixtures import media

pytestmark = pytest.mark.node

OUTAGE_SECONDS = float(os.environ.get("MEDIA_OUTAGE_SECONDS", "0"))
DONE_SECONDS = 60.0
"""Within so many seconds of their return everything is done."""
PARTS = {
    "s3": "deployment/media-dev-s3",
    "clamd": "statefulset/media-clamd",
    "postgres": "deployment/media-dev-postgres",
}
ANSWERS = {"upload: 201", "upload: 503", "transcribe: 202", "transcribe: 503"}


def id_of(namespace: Namespace) -> str:
    """Its own: `make demo` may have left an acme on this cluster."""
    return f"acme-{namespace.name[-6:]}"


def declare(namespace: Namespace, **changed: object) -> None:
    """As it is at first, but for the fields of the spec that are `changed`."""
    small = {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}
    wanted = {
        "tenantId": id_of(namespace),
        "api": {"replicas": 2, "page": True},
        "scan": {"pendingAccess": "All"},
        "transcription": {"enabled": True, "model": "/models/tiny-words", "resources": small},
        **changed,
    }
    version = "media.scaiwave.io/v1alpha1"
    namespace.apply({"apiVersion": version, "kind": "MediaTenant", "metadata": {"name": "acme"}, "spec": wanted})


@pytest.fixture(scope="module")
def running(platform: Installation) -> Iterator[Namespace]:
    """The tenant's namespace."""
    with platform.namespace("team-acme") as namespace:
        declare(namespace)
        namespace.wait("mediatenant/acme", "condition=Ready", seconds=180)
        yield namespace


def test_a_small_file_has_its_verdict_within_six_seconds(running: Namespace) -> None:
    took = []
    with running.reaching(f"mt-{id_of(running)}") as acme:
        for number in range(3):
            running.kubectl("wait", "job", "--all", "--for=condition=Complete", "--timeout=60s", check=False)
            running.until_none("job", "--field-selector", "status.successful=0")  # so that each one needs a new Job
            began = time.monotonic()
            file = acme.upload(f"a small file, {number}".encode(), "small.txt", "text/plain")
            acme.until(file, lambda about: about["scan_status"] == "clean")
            took.append(time.monotonic() - began)
    print(f"upload to verdict: {', '.join(f'{seconds:.1f} s' for seconds in took)}")
    assert statistics.median(took) < 6 * slowness()


async def test_a_photo_given_to_the_page_becomes_clean_and_shows_its_thumbnail(running: Namespace) -> None:
    id_ = id_of(running)
    with running.forwarded(f"mt-{id_}") as base:
        async with chromium() as browser, opened(browser, f"{base}/#token={running.token(id_)}") as page:
            photo = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": media.photo(640, 480)}
            await page.get_by_test_id("files").set_input_files(photo)  # type: ignore[arg-type]
            tile = page.locator(".files li", has=page.get_by_text("photo.jpg", exact=True))
            await expect(tile).to_have_attribute("data-status", "clean", timeout=PATIENCE)
            await expect(tile.locator("img")).to_be_visible(timeout=PATIENCE)
            shown = "tile => tile.querySelector('img')?.naturalWidth > 0"
            await page.wait_for_function(f"({shown})(document.querySelector('.files li'))", timeout=PATIENCE)


def test_the_images_decode_pictures_pages_and_films(running: Namespace) -> None:
    contents = {kind: media.photo(64, 48, kind) for kind in ("HEIF", "AVIF", "JXL", "PDF")} | {"film": media.film(1)}
    with running.reaching(f"mt-{id_of(running)}") as acme:
        for kind, content in contents.items():
            path = f"/v1/media/download/{acme.upload(content, kind, 'application/octet-stream')}/thumbnail"
            wait_until(lambda path=path: acme.get(path).status_code == 200, 60, lambda kind=kind: f"{kind} has none")


def test_a_refused_uninstallation_removes_nothing_and_says_how_to_go_on(
    platform: Installation, running: Namespace
) -> None:
    """After the refusal Helm takes the release for partly removed, and upgrades it only after that rollback."""
    installed = ("get", "deployments,statefulsets,secrets", "--output", "name")
    before = platform.own.kubectl(*installed)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        platform.cluster.helm("uninstall", RELEASE, "--namespace", PLATFORM, "--timeout", "120s")
    said = refused.value.stderr + refused.value.stdout
    (rollback,) = re.findall(r"helm (rollback [\w -]+)", said)
    platform.cluster.helm(*rollback.split())
    assert f"{running.name}/acme" in said
    assert set(before.split()) <= set(platform.own.kubectl(*installed).split())
    platform.install()


class Users:
    """They send a small file every second, and a recording every twenty, and note what they are answered."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go)
        self.files: list[str] = []
        self.jobs: list[str] = []
        self.answers: Counter[str] = Counter()

    def __enter__(self) -> "Users":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _go(self) -> None:
        number = 0
        while not self._over.wait(1.0):
            number += 1
            try:
                if number % 20 == 2:
                    self._transcribe()
                else:
                    self._upload(number)
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1

    def _upload(self, number: int) -> None:
        file = ("a.txt", f"the file {number} of {id(self)}".encode() * 500, "text/plain")
        answer = self._client.http.post("/v1/media/upload", files={"file": file}, data={"room_id": "lobby"})
        self.answers[f"upload: {answer.status_code}"] += 1
        if answer.status_code == 201:
            self.files.append(str(answer.json()["data"]["media_id"]))

    def _transcribe(self) -> None:
        file = (RECORDING.name, RECORDING.read_bytes(), "audio/wav")
        answer = self._client.http.post("/v1/transcribe", files={"file": file}, data={"room_id": "lobby"})
        self.answers[f"transcribe: {answer.status_code}"] += 1
        if answer.status_code == 202:
            self.jobs.append(str(answer.json()["data"]["job_id"]))


def scale(platform: Installation, parts: list[str], replicas: int) -> None:
    """Returns when they are there, or gone."""
    platform.own.kubectl("scale", *(PARTS[part] for part in parts), f"--replicas={replicas}")
    for part in parts:
        if replicas:
            platform.own.kubectl("rollout", "status", PARTS[part], "--timeout=180s")
        else:
            component = platform.own.get(PARTS[part])["spec"]["selector"]["matchLabels"]
            selector = ",".join(f"{name}={value}" for name, value in component.items())
            platform.own.until_none("pod", "--selector", selector)


@pytest.mark.parametrize("away", [list(PARTS), *([part] for part in PARTS if OUTAGE_SECONDS)], ids=" ".join)
def test_what_an_outage_interrupts_is_done_within_a_minute_of_its_end_and_nothing_failed(
    platform: Installation, running: Namespace, away: list[str]
) -> None:
    id_ = id_of(running)
    with running.reaching(f"mt-{id_}") as acme:
        with Users(acme) as users:
            wait_until(lambda: bool(users.files and users.jobs), 60, lambda: str(users.answers))
            scale(platform, away, 0)
            try:
                time.sleep(OUTAGE_SECONDS or 20)  # by definition
            finally:
                scale(platform, away, 1)
            back = time.monotonic()
        print(f"without {', '.join(away)}: {dict(users.answers)}")

        left = DONE_SECONDS * slowness() + 1
        for job in users.jobs:
            assert acme.transcript(job, seconds=max(1.0, left - (time.monotonic() - back))).strip() == SAID
        for file in users.files:
            acme.until(
                file,
                lambda about: about["scan_status"] == "clean",
                seconds=max(1.0, left - (time.monotonic() - back)),
            )
        done = f"{len(users.files)} files and {len(users.jobs)} recordings"
        print(f"{done} were done {time.monotonic() - back:.0f} s after its end")
        assert users.answers.keys() <= ANSWERS
        failed = platform.psql(f"SELECT kind || ' ' || error_code FROM {schema_of(id_)}.job WHERE status = 'failed'")  # noqa: S608 (a name of ours)
        assert failed == []


def generation(namespace: Namespace) -> int:
    return int(namespace.get(f"deployment/mt-{id_of(namespace)}")["metadata"]["generation"])


def until_rolled(namespace: Namespace, before: int) -> None:
    namespace.until(f"deployment/mt-{id_of(namespace)}", ".metadata.generation", lambda it: int(it) > before)
    namespace.kubectl("rollout", "status", f"deployment/mt-{id_of(namespace)}", "--timeout=180s")
    namespace.wait("mediatenant/acme", "condition=Ready", seconds=60)


def test_changes_of_resources_keys_and_auth_fail_no_request(running: Namespace) -> None:
    clients = Clients(running, id_of(running))
    clients.start()
    requests = {"requests": {"cpu": "60m"}}

    before = generation(running)
    declare(running, api={"page": True, "replicas": 2, "resources": requests})
    until_rolled(running, before)

    before = generation(running)
    one = {"page": True, "replicas": 1, "resources": requests}  # one pod only: the new one has to stand first
    declare(running, api=one)
    running.kubectl("rollout", "status", f"deployment/mt-{id_of(running)}", "--timeout=180s")
    running.kubectl("annotate", "mediatenant", "acme", "media.scaiwave.io/rotate-keys=again")
    until_rolled(running, before)

    # Tokens of another issuer alone are good for a while: refused, as was declared, but answered all the time.
    issuer = {"issuer": "https://login.example", "jwksUri": "https://login.example/keys"}
    for auth in ({"oidc": issuer}, {}):
        before = generation(running)
        declare(running, api=one, auth=auth)
        until_rolled(running, before)

    report = clients.report()
    assert not report.errors.keys() - {"upload: 401", "download: 401"}, report.errors
    assert report.lost == []
    assert report.uploaded > 10
