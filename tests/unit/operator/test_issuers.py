"""The operator asks for the URL of an issuer's keys only when it must, and remembers it only on the Deployment."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from media_operator.cluster import kinds
from media_operator.cluster.cache import Cache
from media_operator.kubernetes_target import objects
from media_operator.kubernetes_target.cluster import Cluster
from media_operator.kubernetes_target.objects import TenantObjects
from media_operator.tenant.spec import MediaTenant, Oidc
from tests.unit.operator.render_cases import STORE, Case

ISSUER, KEYS = "https://login.example", "https://login.example/keys"
DECLARED = {"issuer": ISSUER, "jwksUri": "https://old.example/keys"}


def case(**oidc: str) -> Case:
    return Case({"auth": {"oidc": oidc}} if oidc else {})


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The issuers that the operator asked."""
    issuers: list[str] = []

    async def jwks_uri(oidc: Oidc) -> str:
        issuers.append(oidc.issuer)
        return KEYS

    monkeypatch.setattr(objects, "jwks_uri", jwks_uri)
    return issuers


async def wanted(now: Case, running: Case | None = None, uri: str = "", **edited: str) -> tuple[str | None, ...]:
    """The URLs that a pass uses when it compares and when it applies, while the Deployment of `running` runs."""
    tenant, cache = now.tenant(), Cache()
    cache.see(kinds.MEDIA_TENANT, None, tenant_object(tenant))
    if running is not None:
        for each in running.workloads(running.tenant(), oidc_jwks_uri=uri):
            if each["kind"] == "Deployment":
                each["metadata"] |= {"resourceVersion": "1", "annotations": each["metadata"].get("annotations", {})}
                each["metadata"]["annotations"] |= edited
                cache.see(kinds.DEPLOYMENT, None, each)
    nothing = cast(Any, None)
    jobs = cast(Any, SimpleNamespace(store=STORE))
    cluster = Cluster("", nothing, cache, nothing, jobs, nothing, nothing, 60)
    seen = TenantObjects(cluster, tenant)
    assert (seen.children.deployment is None) == (running is None)
    return await seen.jwks_uri(fetch=False), await seen.jwks_uri(fetch=True)


def tenant_object(tenant: MediaTenant) -> dict[str, Any]:
    return tenant.model_dump(mode="json", by_alias=True) | {
        "metadata": {
            "name": tenant.metadata.name,
            "namespace": tenant.metadata.namespace,
            "uid": tenant.metadata.uid,
            "resourceVersion": "1",
        }
    }


async def test_a_tenant_without_issuer_has_no_such_url(asked: list[str]) -> None:
    assert await wanted(case()) == (None, None)
    assert await wanted(case(), case(issuer=ISSUER), KEYS) == (None, None)
    assert not asked


async def test_a_new_issuer_is_asked() -> None:
    assert await wanted(case(issuer=ISSUER)) == ("", KEYS)
    assert await wanted(case(issuer=ISSUER), case()) == ("", KEYS)
    former = case(issuer="https://former.example")
    assert await wanted(case(issuer=ISSUER), former, "https://former.example/k") == ("", KEYS)


async def test_what_an_issuer_said_once_holds_while_it_is_away() -> None:
    assert (await wanted(case(issuer=ISSUER), case(issuer=ISSUER), "https://a.example/k"))[0] == "https://a.example/k"


async def test_a_declared_url_holds_without_asking(asked: list[str]) -> None:
    for running in (None, case(), case(issuer=ISSUER), case(**DECLARED)):
        assert await wanted(case(**DECLARED), running, KEYS) == (DECLARED["jwksUri"],) * 2
    assert not asked


async def test_an_issuer_is_asked_again_once_the_declared_url_is_removed() -> None:
    assert await wanted(case(issuer=ISSUER), case(**DECLARED), DECLARED["jwksUri"]) == ("", KEYS)


@pytest.mark.parametrize("url", ["https://login.example:99999/k", "http://169.254.169.254/", ""])
async def test_a_remembered_url_that_could_not_be_declared_is_asked_for_again(url: str) -> None:
    edited = {kinds.DISCOVERED_JWKS_URI: url}
    assert await wanted(case(issuer=ISSUER), case(issuer=ISSUER), KEYS, **edited) == ("", KEYS)


def test_only_a_discovered_url_is_remembered() -> None:
    def annotations(made: Case) -> dict[str, str]:
        (found,) = (each for each in made.workloads(made.tenant(), oidc_jwks_uri=KEYS) if each["kind"] == "Deployment")
        return dict(found["metadata"].get("annotations", {}))

    assert annotations(case(issuer=ISSUER)) == {kinds.DISCOVERED_JWKS_URI: KEYS}
    assert annotations(case(**DECLARED)) == annotations(case()) == {}
