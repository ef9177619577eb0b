"""A mutating admission webhook, as policy engines run one (Kyverno, Gatekeeper): it changes what is applied."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.cluster.control_plane.api import Api
from tests.cluster.control_plane.server import ControlPlane

Object = dict[str, Any]
PATH = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"


@asynccontextmanager
async def mutating(
    control_plane: ControlPlane, api: Api, namespace: str, rules: list[Object], patch: Callable[[Object], list[Object]]
) -> AsyncIterator[None]:
    """Objects of the namespace that `rules` name are changed by the JSON patch that `patch` gives for each."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
            changes = base64.b64encode(json.dumps(patch(asked["object"])).encode()).decode()
            answer = {"uid": asked["uid"], "allowed": True, "patchType": "JSONPatch", "patch": changes}
            review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
            body = json.dumps(review).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    name = f"{namespace}.tests.example"
    certificate, key = control_plane.authority.issue_server(f"webhook-{namespace}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    authority = base64.b64encode(control_plane.authority.certificate.read_bytes()).decode()
    webhook = {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"url": f"https://127.0.0.1:{server.server_port}/", "caBundle": authority},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [{"operations": ["CREATE", "UPDATE"], **rule} for rule in rules],
    }
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [webhook],
    }
    try:
        await api.apply(PATH + name, body, manager="tests", force=True)
        yield
    finally:
        await api.delete(PATH + name)
        server.shutdown()
        server.server_close()
        thread.join()
