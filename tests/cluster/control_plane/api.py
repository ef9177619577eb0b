"""The Kubernetes API by its paths: plain dicts over HTTP, so that a test sees exactly what the server answers."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import httpx

from media_operator.cluster.kinds import MEDIA_TENANT
from tests.cluster.control_plane.server import ControlPlane

Object = dict[str, Any]
PATIENCE = 180.0
"""Seconds that a test waits for what takes one, before it says what it did not see."""


class ApiError(Exception):
    """An answer above 399. `status` is the code, `causes` is what is wrong field by field; the text is the server's
    reason and message."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        body = response.json() if "json" in response.headers.get("content-type", "") else {}
        self.causes: list[Object] = (body.get("details") or {}).get("causes", [])
        super().__init__(f"{self.status} {body.get('reason', '')}: {body.get('message', response.text)}")


class Api:
    """As the administrator, unless another `token` is given; through a proxy with its `url`.

    `warnings`: the warnings in the server's answers.
    """

    def __init__(self, control_plane: ControlPlane, *, url: str | None = None, token: str | None = None) -> None:
        self.warnings: list[str] = []
        self._client = httpx.AsyncClient(
            base_url=url or control_plane.url,
            headers={"Authorization": f"Bearer {token or control_plane.token}"},
            verify=control_plane.trust(),
            timeout=60,  # on a busy machine an answer has taken 15
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(self, path: str, **query: str) -> Object:
        return await self._send("GET", path, query)

    async def create(self, path: str, body: Object, **query: str) -> Object:
        return await self._send("POST", path, query, body)

    async def apply(self, path: str, body: Object, *, manager: str, force: bool = False) -> Object:
        """Server-side apply of the object at `path`."""
        query = {"fieldManager": manager, "force": str(force).lower()}
        return await self._send("PATCH", path, query, body, "application/apply-patch+yaml")

    async def patch(self, path: str, body: Object) -> Object:
        return await self._send("PATCH", path, {}, body, "application/merge-patch+json")

    async def delete(self, path: str, **options: Any) -> Object:
        return await self._send("DELETE", path, {}, options or None)

    async def put(self, path: str, body: Object) -> Object:
        return await self._send("PUT", path, {}, body)

    async def watch(self, path: str, **query: str) -> AsyncIterator[Object]:
        """Events as they come; ends when the server ends it, raises httpx.TransportError when the connection breaks."""
        parameters = {"watch": "true", **query}
        while True:
            async with self._client.stream("GET", path, params=parameters, timeout=None) as response:
                if response.is_success:
                    async for line in response.aiter_lines():
                        yield json.loads(line)
                    return
                await response.aread()
                if not _begins(response):
                    raise ApiError(response)
            await asyncio.sleep(float(response.headers["Retry-After"]))

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: Object | None = None,
        content: str = "application/json",
    ) -> Object:
        while True:
            response = await self._client.request(
                method,
                path,
                params=query,
                content=None if body is None else json.dumps(body),
                headers={"Content-Type": content} if body is not None else {},
            )
            if not _begins(response):
                break
            await asyncio.sleep(float(response.headers["Retry-After"]))
        self.warnings += response.headers.get_list("Warning")
        if response.is_error:
            raise ApiError(response)
        return dict(response.json())


def _begins(response: httpx.Response) -> bool:
    """Whether the server has only just begun to serve this kind of object, and says when to ask again."""
    return response.status_code == 429 and "storage is (re)initializing" in response.text


async def seen(api: Api, path: str, wanted: Callable[[Object], bool]) -> Object:
    """Watches the object at `path` until it is as wanted, and returns it so."""
    collection, name = path.rsplit("/", 1)
    async with asyncio.timeout(PATIENCE):
        async for event in api.watch(collection, fieldSelector=f"metadata.name={name}"):
            if event["type"] != "DELETED" and wanted(event["object"]):
                return dict(event["object"])
    raise AssertionError(f"the watch of {path} ended")


async def gone(api: Api, path: str) -> None:
    """Returns when there is no object at `path`."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await api.get(path)
            except ApiError as error:
                if error.status == 404:
                    return
                raise
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def another_namespace(api: Api) -> AsyncIterator[str]:
    """The name of a new namespace, in which pods could be made. Afterwards its tenants go, with all that is theirs.

    The namespace itself stays for the few minutes that the control plane has left: its deletion takes the servers a
    hundred requests, which is more than most tests take.
    """
    name = f"test-{secrets.token_hex(4)}"
    await api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    await seen(api, f"/api/v1/namespaces/{name}/serviceaccounts/default", lambda _: True)
    try:
        yield name
    finally:
        with contextlib.suppress(ApiError):  # the kind may not be known here
            await api.delete(MEDIA_TENANT.path(name))
