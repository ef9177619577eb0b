"""Whether a process is ready to serve. The rest of it is in `tests/integration/http/test_errors.py`."""

from types import SimpleNamespace

import httpx
from fastapi import FastAPI

from media_api.answers import problems
from media_api.routes import health


async def test_a_process_that_is_ending_says_so_in_a_problem() -> None:
    app = FastAPI()
    app.include_router(health.router)
    problems.install(app)
    app.state.services = SimpleNamespace(draining=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        answer = await client.get("/readyz")
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (503, problems.MEDIA_TYPE)
    assert (body["status"], body["code"], body["detail"][:23]) == (503, "unavailable", "This process is ending.")
