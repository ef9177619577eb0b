"""A tenant's life on a real cluster, from `kubectl apply` to its deletion, as the README describes it.

Read it as a script. The chart is installed as on a laptop (`dev.enabled=true`). All else is done with the commands of a
platform engineer: kubectl for the tenant, HTTP through its Service for the files.
"""

import json
from pathlib import Path

import pytest
import yaml

from media_operator.tenant.spec import schema_of
from tests.cluster.node import images
from tests.cluster.node.installation import Installation
from tests.cluster.node.namespace import Namespace

pytestmark = pytest.mark.node

ROOT = Path(__file__).parents[3]
ACME = ROOT / "samples" / "acme.yaml"
PHOTO = ROOT / "samples" / "photo.jpg"
RECORDING = images.SPEECH_MODEL / "samples" / "greeting_en.wav"
SAID = json.loads((images.SPEECH_MODEL / "samples" / "transcripts.json").read_text())[RECORDING.name]["text"]
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def test_a_tenants_life(platform: Installation, team: Namespace) -> None:
    # 1. Somebody declares it ...
    manifest = yaml.safe_load(ACME.read_text())
    manifest["spec"]["transcription"]["model"] = "/models/tiny-words"  # no model hub is reached from here
    manifest["spec"]["transcription"]["resources"] = {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}
    manifest["spec"]["storage"] = {"deletionPolicy": "Delete"}
    # Everything of it bears its id; the one in the sample may be taken on this cluster, by `make demo`.
    manifest["spec"]["tenantId"] = id_ = f"acme-{team.name[-6:]}"
    team.apply(manifest)

    # 2. ... and waits until it is ready: bucket, key, schema, api, and a scanner that has found a test virus.
    team.wait("mediatenant/acme", "condition=Ready", seconds=180)
    print(team.kubectl("get", "mt"))
    name, ready, reason, *_ = team.kubectl("get", "mt", "--no-headers").split()
    assert (name, ready, reason) == ("acme", "True", "Serving")

    with team.reaching(f"mt-{id_}") as acme:
        # 3. A photo goes up, is scanned by a Job, and comes down as it was, with a thumbnail.
        photo = acme.upload(PHOTO.read_bytes(), "photo.jpg", "image/jpeg")
        verdict = acme.until(photo, lambda about: about["scan_status"] == "clean")
        assert acme.download(photo) == PHOTO.read_bytes()
        assert verdict["thumbnail_id"]
        assert acme.get(f"/v1/media/download/{photo}/thumbnail").status_code == 200

        # 4. A virus goes up, and nobody sees it again.
        virus = acme.upload(EICAR, "invoice.pdf", "application/pdf")
        acme.until_gone(virus)

        # 5. A recording becomes text.
        job = acme.transcribe(RECORDING.read_bytes(), RECORDING.name)
        assert acme.transcript(job).strip() == SAID

        # 6. The Jobs still exist, and none of them failed.
        jobs = json.loads(team.kubectl("get", "jobs", "--output", "json"))["items"]
        assert {"scan", "transcribe"} <= {each["metadata"]["labels"]["media.scaiwave.io/work"] for each in jobs}
        assert not [each for each in jobs if each.get("status", {}).get("failed")]

    # 7. It is deleted, with all its data, as its manifest says.
    team.kubectl("delete", "mediatenant", "acme", "--timeout=120s")
    kinds = "deployment,service,secret,configmap,cronjob,job,networkpolicy,pod"
    team.until_none(kinds, "--selector", f"media.scaiwave.io/tenant={id_}")
    assert f"media-{id_}" not in platform.buckets()
    assert schema_of(id_) not in platform.schemas()
