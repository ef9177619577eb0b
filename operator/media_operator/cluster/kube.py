"""The Kubernetes API: the official client's connection, plain dicts in and out.

No typed models (they drop what they don't know) and no discovery: paths come from `kinds`. What we own is written by
server-side apply, with exactly our fields and one field manager. What the server may get over by itself is asked again
a few times, as late as it says; so a create whose answer was lost can end as AlreadyExists.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from media_operator.cluster.kinds import MANAGER, Kind, Object

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
TIMEOUT = aiohttp.ClientTimeout(total=30)
PAGE = 500
TRIES = 5
PATIENCE = 60.0
"""Seconds after which nothing is tried again: whoever waits for the answer has others to see to."""
LONGEST_PAUSE = 30.0
"""Who is told to come back later than this is told so to the caller instead."""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}
Objects = list[Object]
_LACKING = re.compile(
    r'User ".*" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)
"""How RBAC says no. All other 403s are admission (quota, a namespace that ends, a webhook): about the object."""


class KubeError(Exception):
    """The text is a sentence for a condition. `status` is the HTTP code, 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class ServerUnavailable(KubeError):
    """No answer, or none that says anything about the request; it was tried several times."""


class Forbidden(KubeError):
    """The operator's service account lacks the permission; the text says which."""


class NotFound(KubeError):
    """There is no such object, or no namespace for it."""


class NamespaceGone(NotFound):
    """The object's namespace is gone. The object may still be stored, where somebody finalized the namespace by force;
    then nothing in it can be written any more."""


class KindNotServed(NotFound):
    """Nothing is known of any such object: the CRD is not installed, or the server is still starting."""


class AlreadyExists(KubeError):
    """The name is taken."""


class Conflict(KubeError):
    """The object is not what the request said it was."""


class Invalid(KubeError):
    """The API server refuses the object itself."""


class Expired(KubeError):
    """410: what a list continued from is forgotten."""


class Kube:
    """`observer(verb, kind, status)` is told of every answer, for the metrics; 0 is none."""

    def __init__(self, api: client.ApiClient) -> None:
        self.observer: Callable[[str, str, int], None] = lambda verb, kind, status: None
        self._api = api

    @classmethod
    async def connect(cls) -> Self:
        """As the pod's service account, else by KUBECONFIG or ~/.kube/config."""
        configuration = client.Configuration()
        await _read_credentials(configuration)
        return cls(client.ApiClient(configuration))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._api.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """None: there is none. Raises KindNotServed where that cannot be told."""
        try:
            return await self._send("GET", kind, namespace, name)
        except KindNotServed:
            raise
        except NotFound:
            return None

    async def list(self, kind: Kind, namespace: str | None = None, *, selector: str = "") -> tuple[Objects, str]:
        """All objects and the resourceVersion at which they were so; without namespace, of all namespaces.

        Items bear apiVersion and kind, which lists leave out.
        """
        try:
            return await self._list(kind, namespace, selector, PAGE)
        except Expired:  # it took so long that the first page is forgotten: all at once, as client-go does then
            return await self._list(kind, namespace, selector, None)

    async def _list(self, kind: Kind, namespace: str | None, selector: str, limit: int | None) -> tuple[Objects, str]:
        found: Objects = []
        query: Object = {"labelSelector": selector, "limit": limit}
        while True:
            page = await self._send("GET", kind, namespace, "", query=query)
            found += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page.get("items") or []]
            query["continue"] = page["metadata"].get("continue")
            if not query["continue"]:
                return found, str(page["metadata"].get("resourceVersion", ""))

    async def apply(self, kind: Kind, body: Object, *, subresource: str = "", manager: str = MANAGER) -> Object:
        """Server-side apply: creates it, or makes exactly these fields ours and as they are here."""
        metadata = body["metadata"]
        query = {"fieldManager": manager, "force": "true"}
        return await self._send(
            "PATCH", kind, metadata.get("namespace"), metadata["name"], subresource, query, body, APPLY
        )

    async def create(self, kind: Kind, body: Object) -> Object:
        query = {"fieldManager": MANAGER}
        return await self._send("POST", kind, body["metadata"].get("namespace"), "", query=query, body=body)

    async def replace(self, kind: Kind, body: Object) -> Object:
        """With the resourceVersion in it: only over what was seen."""
        metadata = body["metadata"]
        return await self._send("PUT", kind, metadata.get("namespace"), metadata["name"], body=body)

    async def merge_patch(self, kind: Kind, namespace: str | None, name: str, patch: Object) -> Object:
        """With a resourceVersion in it: only over what was seen."""
        return await self._send(
            "PATCH", kind, namespace, name, query={"fieldManager": MANAGER}, body=patch, content=MERGE
        )

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, *, uid: str | None = None, propagation: str = "Background"
    ) -> bool:
        """False: there was none. `uid`: this very object, never its successor."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._send("DELETE", kind, namespace, name, body=options)
        except (NotFound, Conflict):
            return False
        return True

    # --- requests ---------------------------------------------------------------------------------------------------

    async def _send(
        self,
        method: str,
        kind: Kind,
        namespace: str | None,
        name: str,
        subresource: str = "",
        query: Object | None = None,
        body: Object | None = None,
        content: str = "application/json",
    ) -> Object:
        url = self._api.configuration.host + kind.path(namespace, name, subresource)
        if query:
            url += "?" + urlencode({key: value for key, value in query.items() if value})
        verb = VERBS.get(method, "get" if name else "list")
        resource = "/".join(part for part in (kind.plural, subresource) if part)
        began = time.monotonic()
        for attempt in range(1, TRIES + 1):
            pause = _pause(attempt)
            try:
                status, headers, answer = await self._request(method, url, body, content)
                self.observer(verb, kind.kind, status)
                if status < 400:
                    return answer
                error = _error(status, answer, verb, resource, kind, namespace, name)
                if status == 401:  # they are replaced from time to time, perhaps just now
                    with contextlib.suppress(config.ConfigException, OSError):
                        await _read_credentials(self._api.configuration)
                pause = _pause(attempt, headers.get("Retry-After"))
            except (aiohttp.ClientError, TimeoutError, OSError) as failure:
                self.observer(verb, kind.kind, 0)
                error = ServerUnavailable(f"the Kubernetes API does not answer ({type(failure).__name__})")
            spent = time.monotonic() - began + pause > PATIENCE
            if not isinstance(error, ServerUnavailable) or attempt == TRIES or pause > LONGEST_PAUSE or spent:
                raise error
            await asyncio.sleep(pause)
        raise AssertionError  # the last attempt returned or raised

    async def _request(self, method: str, url: str, body: Object | None, content: str) -> tuple[int, Any, Object]:
        headers = {"Accept": "application/json", "Content-Type": content, "User-Agent": MANAGER}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], url, method, body)
        response = await self._api.rest_client.request(
            method, url, headers=headers, body=body, _request_timeout=TIMEOUT
        )
        data = await response.read()
        try:
            answer = json.loads(data)
        except ValueError:
            answer = {"message": data[:200].decode(errors="replace")}
        return response.status, response.headers, answer


async def _read_credentials(configuration: client.Configuration) -> None:
    """Where the API is, and the token for it. In a pod the client itself reads the token again every minute."""
    if await asyncio.to_thread(SERVICE_ACCOUNT.exists) and "KUBECONFIG" not in os.environ:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(
            os.environ.get("KUBECONFIG"), client_configuration=configuration, persist_config=False
        )


def _pause(attempt: int, retry_after: str | None = None) -> float:
    """Seconds: not before the server wants it, else 0.1 doubling; spread, so that not all come back at once."""
    asked = float(retry_after) if retry_after and retry_after.isdigit() else 0.05 * 2**attempt
    return asked + min(asked, 1.0) * random.uniform(0, 0.5)  # noqa: S311  jitter, not a secret


def _error(
    status: int, answer: Object, verb: str, resource: str, kind: Kind, namespace: str | None, name: str
) -> KubeError:
    message, reason = str(answer.get("message", "")), str(answer.get("reason", ""))
    match status:
        case 401:
            return ServerUnavailable("the Kubernetes API does not accept the operator's credentials", status, reason)
        case 403 if (lacking := _LACKING.search(message)) or not message:
            asked = lacking.groupdict() if lacking else {"verb": verb, "resource": resource, "namespace": namespace}
            group = asked.get("group", kind.group)
            what = f"{asked['resource']} (API group {group})" if group else asked["resource"]
            where = f"in namespace {asked['namespace']}" if asked["namespace"] else "in the whole cluster"
            return Forbidden(
                f"the operator's service account lacks the permission to {asked['verb']} {what} {where}", status, reason
            )
        case 404 if not cast("Object", answer.get("details") or {}).get("name"):
            return KindNotServed(f"the Kubernetes API serves no {kind.plural}.{kind.group}".rstrip("."), status, reason)
        case 404 if cast("Object", answer["details"]).get("kind") == "namespaces":
            return NamespaceGone(message, status, reason)
        case 404:
            return NotFound(message, status, reason)
        case 409 if reason == "AlreadyExists":
            return AlreadyExists(message, status, reason)
        case 409:
            return Conflict(message, status, reason)
        case 410:
            return Expired(message, status, reason)
        case 429 | 500 | 502 | 503 | 504:
            return ServerUnavailable(
                f"the Kubernetes API does not serve now ({status} {reason}): {message}", status, reason
            )
        case _:
            return Invalid(f"{kind.kind} {name}: {message}", status, reason)
