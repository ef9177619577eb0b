"""While S3, clamd or PostgreSQL is away, a tenant's users have to wait, but nothing fails.

All are taken away at once, briefly. `MEDIA_OUTAGE_SECONDS=600` sets the time, and then takes each away by itself, too.
"""

import os
import threading
import time
from collections import Counter

import httpx
import pytest

from media_operator.tenant.spec import schema_of
from tests.cluster.client import Client
from tests.cluster.installation import Installation
from tests.cluster.machine import slowness
from tests.cluster.namespace import Namespace
from tests.cluster.waiting import wait_until
from tests.cluster.with_pods.test_a_tenants_life import RECORDING, SAID
from tests.cluster.with_pods.test_changes_under_load import declare, id_of

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
    platform: Installation, team: Namespace, away: list[str]
) -> None:
    small = {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}
    declare(team, transcription={"enabled": True, "model": "/models/tiny-words", "resources": small})
    team.wait("mediatenant/acme", "condition=Ready", seconds=180)
    id_ = id_of(team)
    with team.reaching(f"mt-{id_}") as acme:
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
