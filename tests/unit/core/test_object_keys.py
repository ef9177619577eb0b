"""The keys that a store accepts: its tenant's own, in characters that all backends treat alike."""

from datetime import timedelta

import pytest

from media_core.store.base import checked_expiry, checked_key, staging_key, tenant_prefix
from media_core.store.object_keys import content_key, thumbnail_key

SHA256 = "ab" * 32


@pytest.mark.parametrize("key", [content_key("acme", SHA256), thumbnail_key("acme", SHA256), "tenant/acme/a/b.c_d-e"])
def test_a_tenants_own_keys_are_taken_as_they_are(key: str) -> None:
    assert checked_key("acme", key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "tenant/acme",
        "tenant/acme/",
        "tenant/acme2/x",
        "tenant/other/x",
        "tenant/acme/../other/x",
        "tenant/acme/..",
        "tenant/acme/.",
        "tenant/acme/a/./b",
        "tenant/acme//x",
        "tenant/acme/x/",
        "/tenant/acme/x",
        "tenant/acme/.staging/x",
        "tenant/acme/x\n",
        "tenant/acme/x\x00",
        "tenant/acme/a b",
        "tenant/acme/a%2f..%2fb",
        "tenant/acme/a\\b",
        "tenant/acme/ä",
        "tenant/acme/" + "x" * 202,
    ],
)
def test_foreign_hidden_and_malformed_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="not a key of tenant acme"):
        checked_key("acme", key)


@pytest.mark.parametrize("tenant_id", ["", ".", "..", "a/b", "../a", "a b", "a\n"])
def test_an_impossible_tenant_has_no_prefix(tenant_id: str) -> None:
    with pytest.raises(ValueError, match="not a tenant id"):
        tenant_prefix(tenant_id)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\x00"])
def test_a_staging_name_is_one_segment(name: str) -> None:
    with pytest.raises(ValueError, match="not a staging name"):
        staging_key("acme", name)


@pytest.mark.parametrize("expires_in", [timedelta(0), timedelta(milliseconds=999), timedelta(days=7, seconds=1)])
def test_a_url_lives_between_a_second_and_seven_days(expires_in: timedelta) -> None:
    with pytest.raises(ValueError, match="a second to seven days"):
        checked_expiry(expires_in)
