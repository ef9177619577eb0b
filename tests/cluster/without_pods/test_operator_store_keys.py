"""Temporary keys of a role on a real API server: how a tenant gets them, and how an installation changes to them.

IAM and S3 are versitygw's, STS is MinIO's. No pod runs, so no session meets S3 here (test_role_sessions.py does that).
"""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from media_operator.backends.store_keys import session_in
from media_operator.cluster import kinds
from media_operator.cluster.kinds import Object
from media_operator.tenant.annotations import ROTATE_KEYS
from tests.cluster.control_plane.operator_process import Bench, Team, bench
from tests.cluster.control_plane.server import ControlPlane
from tests.integration.servers import s3_servers

pytestmark = [pytest.mark.control_plane, pytest.mark.usefixtures("crd")]

FILE, KEY_ID = "s3-credentials.json", "s3-access-key-id"
SPEC: dict[str, Any] = {"scan": {"enabled": False}}  # a canary would need an S3 that knows the session


@pytest.fixture
async def own(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    async with bench(control_plane, tmp_path_factory.mktemp("operator")) as made:
        yield made


def held(secret: Object) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}


def variables(deployment: Object) -> set[str]:
    return {each["name"] for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}


async def test_an_installation_changes_from_users_to_a_role_and_back(
    own: Bench, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    team, id_ = Team(own, namespace), f"t{namespace.removeprefix('test-')}"
    name, credentials = f"mt-{id_}", f"mt-{id_}-credentials"
    cluster = str((await own.api.get("/api/v1/namespaces/kube-system"))["metadata"]["uid"])
    keys, key = own.backends.store_keys(cluster), own.backends.s3.settings
    sts = await s3_servers.start(
        "minio",
        tmp_path_factory.mktemp("minio"),
        like=s3_servers.S3Server(key.model_copy(update={"endpoint": s3_servers.nobody().endpoint})),
    )
    role = {"s3_credentials": "role", "s3_role_arn": "arn:aws:iam::1:role/media", "s3_role_seconds": "900"}
    role |= {"s3_sts_endpoint": sts.settings.endpoint}

    # A user of its own.
    first = await own.operator("first")
    await team.apply("acme", tenantId=id_, **SPEC)
    await team.condition("acme", "ApiReady", reason="ApiStarting")
    await team.act_as_kubelet(name)
    await team.condition("acme", "StoreKeyReady", reason="StoreKeyPresent")
    (user_key,) = await keys.observe(id_)
    assert first.stop() == 0

    # The role. The user's key stays until the pods have rolled.
    second = await own.operator("second", **role)
    made = held(await team.seen(kinds.SECRET, credentials, lambda new: FILE in new["data"]))
    session = session_in(made[FILE])
    assert session is not None
    assert (made[KEY_ID], await keys.observe(id_)) == (user_key, (user_key,))
    await team.seen(kinds.DEPLOYMENT, name, lambda new: "MEDIA_S3_CREDENTIALS_FILE" in variables(new))
    await team.condition("acme", "StoreKeyReady", reason="StoreKeyRotating")
    await team.act_as_kubelet(name)
    await team.condition("acme", "StoreKeyReady", reason="StoreKeyPresent")
    assert await keys.observe(id_) == ()
    left = held(await team.seen(kinds.SECRET, credentials, lambda new: KEY_ID not in new["data"]))
    assert left.keys() == {FILE, "database-url"}
    generation = (await team.get(kinds.DEPLOYMENT, name) or {})["metadata"]["generation"]

    # A new session at once, for the asking, and while STS is away none. No pod is replaced by one.
    await team.apply("acme", annotations={ROTATE_KEYS: "1"}, tenantId=id_, **SPEC)
    renewed = held(await team.seen(kinds.SECRET, credentials, lambda new: held(new)[FILE] != left[FILE]))
    assert json.loads(renewed[FILE])["AccessKeyId"] != session.key.access_key_id
    await team.condition("acme", "StoreKeyReady", reason="StoreKeyPresent")
    sts.stop()
    await team.apply("acme", annotations={ROTATE_KEYS: "2"}, tenantId=id_, **SPEC)
    said = await team.condition("acme", "StoreKeyReady", status="True", reason="MakeStoreKeyFailed")
    assert "Pods reach S3 until 20" in said["message"]
    assert (await team.get(kinds.DEPLOYMENT, name) or {})["metadata"]["generation"] == generation
    assert "StoreKey" not in (await team.condition("acme", "ApiReady", status="True"))["reason"]
    assert second.stop() == 0

    # And back. Pods with a session go on with the new key, which has no end.
    third = await own.operator("third")
    back = held(await team.seen(kinds.SECRET, credentials, lambda new: KEY_ID in new["data"]))
    assert session_in(back[FILE]) is None
    assert json.loads(back[FILE])["AccessKeyId"] == back[KEY_ID]
    await team.condition("acme", "StoreKeyReady", reason="StoreKeyRotating")
    await team.act_as_kubelet(name)
    await team.condition("acme", "StoreKeyReady", reason="StoreKeyPresent")
    assert await keys.observe(id_) == (back[KEY_ID],)
    assert FILE not in held(await team.get(kinds.SECRET, credentials) or {})
    third.stop()
    await keys.aclose()
