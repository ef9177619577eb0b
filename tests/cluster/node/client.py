"""A tenant's API as its users see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.cluster.node.waiting import wait_until


@dataclass(frozen=True)
class Client:
    """`http` bears an administrator's token."""

    http: httpx.Client

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def upload(self, content: bytes, name: str, mime_type: str, room: str = "lobby") -> str:
        """The id of the new item."""
        answer = self.http.post("/v1/media/upload", files={"file": (name, content, mime_type)}, data={"room_id": room})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["data"]["media_id"])

    def download(self, media_id: str) -> bytes:
        answer = self.http.get(f"/v1/media/download/{media_id}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def until(self, media_id: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """What the API says of an item, once it is as wanted."""
        about: dict[str, Any] = {}

        def look() -> bool:
            answer = self.http.get(f"/v1/media/{media_id}/info")
            about.clear()
            about.update(answer.json().get("data", {}))
            return answer.status_code == 200 and wanted(about)

        wait_until(look, seconds, lambda: f"{media_id} is {about}")
        return about

    def until_gone(self, media_id: str, seconds: float = 60) -> None:
        wait_until(
            lambda: self.http.get(f"/v1/media/download/{media_id}").status_code == 404,
            seconds,
            lambda: f"{media_id} is still there: {self.http.get(f'/v1/media/{media_id}').text}",
        )

    def transcribe(self, content: bytes, name: str) -> str:
        answer = self.http.post(
            "/v1/transcribe", files={"file": (name, content, "audio/wav")}, data={"room_id": "lobby"}
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["data"]["job_id"])

    def transcript(self, job_id: str, seconds: float = 120) -> str:
        job: dict[str, Any] = {}

        def look() -> bool:
            answer = self.http.get(f"/v1/jobs/{job_id}")
            job.clear()
            job.update(answer.json())
            if answer.status_code == 503:  # PostgreSQL is on its way back
                return False
            assert answer.status_code == 200, job
            job.update(job.pop("data"))
            assert job["status"] not in ("failed", "cancelled"), job
            return bool(job["status"] == "completed")

        wait_until(look, seconds, lambda: f"{job_id} is {job}")
        return str(job["transcript"])
