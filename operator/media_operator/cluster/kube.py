"""The Kubernetes API: the official client's connection, plain dicts in and out.

Typed models are not used, since they drop unknown fields. Paths come from `kinds`, not from discovery. Our objects
are written by server-side apply, with exactly our fields and one field manager. A request that met an outage is sent
again a few times, after the delay that the server names. So a create whose answer was lost can end as AlreadyExists.
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
from dataclasses import replace
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
"""Seconds after which a request is not tried again: the caller has other tenants to look at."""
LONGEST_PAUSE = 30.0
"""If the server names a longer delay, the error goes to the caller instead."""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}
Objects = list[Object]
_LACKING = re.compile(
    r'User ".*" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)
"""RBAC's message. Every other 403 comes from admission (quota, a terminating namespace, a webhook) and is about the
object."""
_UNDECLARED = re.compile(r"\.([\w.]+): field not declared in schema")
"""What server-side apply answers with the status 500, a field a line."""


class KubeError(Exception):
    """The text is a sentence for a condition. `status`: the HTTP status; 0: no answer."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class ServerUnavailable(KubeError):
    """No answer, or one that says nothing about the request. It was tried several times."""


class Forbidden(KubeError):
    """The operator's service account lacks a permission; the text says which."""


class NotFound(KubeError):
    """The object does not exist, or its namespace does not."""


class NamespaceGone(NotFound):
    """The object's namespace is gone. If somebody finalized the namespace by force, its objects may still be stored;
    they cannot be written any more."""


class KindNotServed(NotFound):
    """The server does not know the kind: its CRD is not installed, or the server is still starting."""


class AlreadyExists(KubeError):
    """The name is taken."""


class Conflict(KubeError):
    """The object has another version or uid than the request names."""


class Invalid(KubeError):
    """The API server refuses the object itself."""


class Undeclared(Invalid):
    """The object has `fields` that its kind does not have here: its CRD is older than the operator."""

    def __init__(self, message: str, status: int, reason: str, fields: tuple[str, ...]) -> None:
        super().__init__(message, status, reason)
        self.fields = fields


class Expired(KubeError):
    """410: the server has forgotten the version from which a list goes on."""


class Kube:
    """`observer(verb, kind, status)` is called for every answer, for the metrics; status 0: no answer."""

    def __init__(self, api: client.ApiClient) -> None:
        self.observer: Callable[[str, str, int], None] = lambda verb, kind, status: None
        self._api = api

    @classmethod
    async def connect(cls) -> Self:
        """Connects as the pod's service account, else by KUBECONFIG or ~/.kube/config."""
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
        """None: it does not exist. Raises KindNotServed if that is not known."""
        try:
            return await self._send("GET", kind, namespace, name)
        except KindNotServed:
            raise
        except NotFound:
            return None

    async def list(
        self, kind: Kind, namespace: str | None = None, *, selector: str = "", fields: str = ""
    ) -> tuple[Objects, str]:
        """All objects, and the resourceVersion of the list. Without `namespace`: of all namespaces. `selector` is of
        labels.

        The objects have apiVersion and kind, which the API leaves out in lists.
        """
        try:
            return await self._list(kind, namespace, selector, fields, PAGE)
        except Expired:  # the pages took too long, so ask for all at once, as client-go does
            return await self._list(kind, namespace, selector, fields, None)

    async def _list(
        self, kind: Kind, namespace: str | None, selector: str, fields: str, limit: int | None
    ) -> tuple[Objects, str]:
        found: Objects = []
        query: Object = {"labelSelector": selector, "fieldSelector": fields, "limit": limit}
        while True:
            page = await self._send("GET", kind, namespace, "", query=query)
            found += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page.get("items") or []]
            query["continue"] = page["metadata"].get("continue")
            if not query["continue"]:
                return found, str(page["metadata"].get("resourceVersion", ""))

    async def apply(self, kind: Kind, body: Object, *, subresource: str = "", manager: str = MANAGER) -> Object:
        """Server-side apply: creates the object, or sets exactly these fields and makes them ours."""
        metadata = body["metadata"]
        query = {"fieldManager": manager, "force": "true"}
        return await self._send(
            "PATCH", kind, metadata.get("namespace"), metadata["name"], subresource, query, body, APPLY
        )

    async def create(self, kind: Kind, body: Object) -> Object:
        query = {"fieldManager": MANAGER}
        return await self._send("POST", kind, body["metadata"].get("namespace"), "", query=query, body=body)

    async def replace(self, kind: Kind, body: Object) -> Object:
        """`body` has the resourceVersion that was seen. Raises Conflict if the object has changed since."""
        metadata = body["metadata"]
        return await self._send("PUT", kind, metadata.get("namespace"), metadata["name"], body=body)

    async def merge_patch(self, kind: Kind, namespace: str | None, name: str, patch: Object) -> Object:
        """Raises Conflict if `patch` has a resourceVersion and the object has changed since."""
        return await self._send(
            "PATCH", kind, namespace, name, query={"fieldManager": MANAGER}, body=patch, content=MERGE
        )

    async def delete(self, kind: Kind, namespace: str | None, name: str, *, uid: str | None = None) -> bool:
        """False: it did not exist. `uid`: only the object with this uid, never a later one of the same name."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._send("DELETE", kind, namespace, name, body=options)
        except (NotFound, Conflict):
            return False
        return True

    async def takes_new(self, kind: Kind) -> bool:
        """Whether the server takes new objects of this kind. False: its CRD is being deleted, and all its objects with
        it. It is asked by discovery, which needs no permission. Raises KindNotServed.
        """
        served = await self._send("GET", replace(kind, plural=""), None, "")
        return any(each["name"] == kind.plural and "create" in each["verbs"] for each in served["resources"])

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
                if status == 401:  # the credentials may have been replaced just now
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
    """Reads the API's address and the token. In a pod the client itself reads the token again every minute."""
    if await asyncio.to_thread(SERVICE_ACCOUNT.exists) and "KUBECONFIG" not in os.environ:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(
            os.environ.get("KUBECONFIG"), client_configuration=configuration, persist_config=False
        )


def _pause(attempt: int, retry_after: str | None = None) -> float:
    """Seconds before the next try: the server's Retry-After, else 0.1, doubling; with jitter."""
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
        case 500 if fields := _UNDECLARED.findall(message):
            what = f"{kind.kind} {name}: this cluster's {kind.plural}.{kind.group} do not have {', '.join(fields)}"
            return Undeclared(f"{what}: their CRD is older", status, reason, tuple(fields))
        case 429 | 500 | 502 | 503 | 504:
            return ServerUnavailable(
                f"the Kubernetes API does not serve now ({status} {reason}): {message}", status, reason
            )
        case _:
            return Invalid(f"{kind.kind} {name}: {message}", status, reason)
