"""`make demo`: installs the platform on a new cluster, makes a tenant, and sends it a photo, a virus and a recording.

It prints each step and its time. It leaves everything running, and prints the commands to go on.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import yaml

from media_core.upkeep.canary import EICAR
from tests.cluster.node import images, kind
from tests.cluster.node.docker import Missing
from tests.cluster.node.installation import Installation
from tests.cluster.node.namespace import PLATFORM, Namespace, restricted
from tests.tools import build

ACME = images.ROOT / "samples" / "acme.yaml"
PHOTO = images.ROOT / "samples" / "photo.jpg"
RECORDING = images.SPEECH_MODEL / "samples" / "greeting_en.wav"
NAMESPACE = "team-acme"
MODEL = "/models/tiny-words"


class Steps:
    """Numbers them, and says how long each took."""

    def __init__(self) -> None:
        self._number = 0
        self._began = time.monotonic()

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        self._number += 1
        print(f"{self._number:2}. {what}", flush=True)
        began = time.monotonic()
        yield
        self.say(f"{time.monotonic() - began:.1f} s")

    def say(self, text: str) -> None:
        print("\n".join(f"      {line}" for line in text.rstrip().splitlines()), flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


def manifest() -> dict[str, object]:
    """samples/acme.yaml, with the speech model that is in the workers' image: no hub is needed."""
    declared: dict[str, object] = yaml.safe_load(ACME.read_text())
    spec = declared["spec"]
    assert isinstance(spec, dict)
    spec["transcription"] = {"model": MODEL, "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}}
    return declared


def run() -> None:
    """Raises Missing, BuildFailed, AssertionError, CalledProcessError."""
    steps = Steps()
    with steps.step("A Kubernetes: a kind cluster (make cluster)"):
        cluster = kind.up()
    with steps.step("Our images, built and on its node (make load)"):
        cluster.load(*images.make(cluster.docker), *images.make(cluster.docker, images.WITH_MODEL))
    platform = Installation(cluster)
    with steps.step(f"The platform: helm upgrade --install media charts/media-platform --namespace {PLATFORM} ..."):
        platform.install()
        steps.say(platform.own.kubectl("get", "pods"))
    namespace = Namespace(cluster, NAMESPACE)
    with steps.step(f"A tenant: kubectl apply --namespace {NAMESPACE} --filename samples/acme.yaml"):
        cluster.kubectl("apply", "--filename", "-", given=restricted(NAMESPACE))
        namespace.apply(manifest())
        namespace.wait("mediatenant/acme", "condition=Ready", seconds=180)
        steps.say(namespace.kubectl("get", "mediatenants"))
    with namespace.reaching("mt-acme") as acme:
        with steps.step(f"A photo: POST /v1/media/upload with samples/{PHOTO.name}, scanned by a Job"):
            photo = acme.upload(PHOTO.read_bytes(), PHOTO.name, "image/jpeg")
            about = acme.until(photo, lambda about: about["scan_status"] == "clean" and bool(about["thumbnail_id"]))
            thumbnail = acme.get(f"/v1/media/download/{photo}/thumbnail")
            same = acme.download(photo) == PHOTO.read_bytes()
            steps.say(f"{photo} is {about['scan_status']}, {about['width']} x {about['height']}")
            steps.say(f"comes back as it was: {'yes' if same else 'NO'}; thumbnail of {len(thumbnail.content)} bytes")
        with steps.step("A virus (the EICAR test file)"):
            virus = acme.upload(EICAR, "invoice.pdf", "application/pdf")
            acme.until_gone(virus)
            steps.say(f"{virus}: {acme.get(f'/v1/media/download/{virus}').text}")
        with steps.step(f"A recording: POST /v1/transcribe with {RECORDING.name}"):
            steps.say(f'"{acme.transcript(acme.transcribe(RECORDING.read_bytes(), RECORDING.name)).strip()}"')
        with steps.step("What it cost: GET /v1/usage, and the Jobs"):
            steps.say(json.dumps(acme.get("/v1/usage").json()["data"], indent=2))
            steps.say(namespace.kubectl("get", "jobs"))
    print(f"\nDone in {steps.seconds:.0f} s. It is all still there:\n")
    print('  eval "$(make --silent cluster)"                 # KUBECONFIG, and kubectl and helm where you have none')
    print(f"  kubectl --namespace {NAMESPACE} describe mediatenant acme")
    print(f"  kubectl --namespace {NAMESPACE} port-forward service/mt-acme 8080:80 # then http://127.0.0.1:8080/docs")
    print("  make cluster-down                               # removes it all")


def main() -> int:
    try:
        run()
    except (Missing, build.BuildFailed, AssertionError) as failed:
        print(failed, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        print(f"{failed}\n{failed.stderr or ''}".strip(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
