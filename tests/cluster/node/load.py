"""Clients that are there all the time, in a pod. They show whether a tenant's users would notice an upgrade."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.cluster.node.namespace import Namespace, body, pod

POD = "clients"


@dataclass(frozen=True)
class Report:
    """`uploaded` counts answers 201; `lost` are items that were acknowledged and did not come back byte for byte."""

    uploaded: int
    downloaded: int
    errors: dict[str, list[str]]
    """What went wrong, such as `upload: 503` -> when and with which words."""
    lost: list[str]


class Clients:
    """Two that upload and two that download, each request on a connection of its own, through the tenant's Service.

    Downloads follow each other fast, so that a gap is seen. Uploads cost ten times as much, with their scans.

    Runs from `start` to `report`, which first fetches again all that was acknowledged.
    """

    def __init__(self, namespace: Namespace, tenant_id: str) -> None:
        self._namespace = namespace
        self._tenant_id = tenant_id

    def start(self) -> None:
        """Returns after the first upload."""
        tmp = [{"name": "tmp", "mountPath": "/tmp"}]
        secret = {"name": f"{POD}-token"}
        token = self._namespace.token(self._tenant_id)
        self._namespace.apply(body("v1", "Secret", secret, stringData={"token": token}))
        running = pod(
            POD,
            *("python3", "-u", "-c", _SCRIPT),
            environment={"HOST": f"mt-{self._tenant_id}"},
            volumeMounts=tmp,
            resources={"requests": {"cpu": "50m"}},
        )
        container = running["spec"]["containers"][0]
        container["env"].append({"name": "TOKEN", "valueFrom": {"secretKeyRef": {**secret, "key": "token"}}})
        # Ready: the first upload was acknowledged. It is asked only until then, since each time costs a process.
        going = {"exec": {"command": ["test", "-e", "/tmp/going"]}, "periodSeconds": 1, "failureThreshold": 60}
        container["startupProbe"] = going
        running["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}]
        self._namespace.apply(running)
        self._namespace.wait(f"pod/{POD}", "condition=Ready")

    def report(self) -> Report:
        """Ends them."""
        self._namespace.kubectl("exec", POD, "--", "touch", "/tmp/stop")
        self._namespace.wait(f"pod/{POD}", "jsonpath={.status.phase}=Succeeded", seconds=180)
        said: dict[str, Any] = json.loads(self._namespace.kubectl("logs", POD).splitlines()[-1])
        self._namespace.kubectl("delete", "pod", POD)
        return Report(**said)


_SCRIPT = r"""
import hashlib, http.client, json, os, pathlib, random, socket, threading, time

HOST, TOKEN = os.environ["HOST"], os.environ["TOKEN"]
ADDRESS = socket.gethostbyname(HOST)  # asked for once: a Service keeps it
GOING, STOP = pathlib.Path("/tmp/going"), pathlib.Path("/tmp/stop")
acknowledged, errors, counts, lock = {}, {}, {"uploaded": 0, "downloaded": 0}, threading.Lock()

def request(method, path, body=None, headers={}):
    connection = http.client.HTTPConnection(ADDRESS, timeout=30)
    always = {"Host": HOST, "Authorization": "Bearer " + TOKEN, "Connection": "close"}
    try:
        connection.request(method, path, body, {**always, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()

def attempt(what, wanted, *arguments):
    began = time.time()
    try:
        status, body = request(*arguments)
        if status == wanted:
            return body
        problem, words = status, body[:300].decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        problem, words = type(error).__name__, str(error)
    with lock:
        errors.setdefault(f"{what}: {problem}", []).append(f"{time.strftime('%H:%M:%S', time.gmtime(began))} {words}")
    return None

def upload():
    content = os.urandom(random.choice([2_000, 50_000, 50_000, 50_000, 2_000_000]))
    fields = b'--x\r\nContent-Disposition: form-data; name="room_id"\r\n\r\nlobby\r\n'
    fields += b'--x\r\nContent-Disposition: form-data; name="file"; filename="f.bin"\r\n'
    fields += b"Content-Type: application/octet-stream\r\n\r\n"
    fields += content + b"\r\n--x--\r\n"
    told = {"Content-Type": "multipart/form-data; boundary=x"}
    body = attempt("upload", 201, "POST", "/v1/media/upload", fields, told)
    if body:
        with lock:
            acknowledged[json.loads(body)["data"]["media_id"]] = hashlib.sha256(content).hexdigest()
            counts["uploaded"] += 1
        GOING.touch()

def download():
    with lock:
        known = list(acknowledged)
    if known:
        body = attempt("download", 200, "GET", "/v1/media/download/" + random.choice(known))
        if body is not None:
            with lock:
                counts["downloaded"] += 1

def go(act, pause):
    while not STOP.exists():
        act()
        time.sleep(pause)  # they are to be there all the time, not to fill the node

clients = [threading.Thread(target=go, args=each) for each in 2 * [(upload, 0.5), (download, 0.1)]]
for client in clients:
    client.start()
for client in clients:
    client.join()
lost, deadline = [], time.time() + 60
for media_id, digest in acknowledged.items():
    while True:
        try:
            status, body = request("GET", "/v1/media/download/" + media_id)
        except (OSError, http.client.HTTPException) as error:
            status, body = type(error).__name__, b""
        # A pod of before the roll may still answer for a moment, and refuses: that is no loss.
        if status in (200, 404) or time.time() > deadline:
            break
        time.sleep(1)
    if status != 200 or hashlib.sha256(body).hexdigest() != digest:
        lost.append(f"{media_id}: {status}")
print(json.dumps({**counts, "errors": {what: each[:5] for what, each in errors.items()}, "lost": lost}))
"""
