"""The folder's signed URLs: valid only for what was signed, until they expire, and at the store that signed them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from media_core.errors import Refused
from media_core.store import FolderStore
from media_core.store.folder_urls import SignedRequest
from media_core.store.object_keys import content_key

SIGNING_KEY = b"k" * 32
KEY = content_key("acme", "ab" * 32)
DISPOSITION = "attachment; filename*=UTF-8''na%C3%AFve%20%26%20x.png"


def opened(tenant_id: str = "acme", signing_key: bytes = SIGNING_KEY) -> FolderStore:
    return FolderStore(Path("/nowhere"), tenant_id, signing_key, "https://media.acme.example/")


def signed(store: FolderStore, key: str = KEY) -> tuple[dict[str, str], datetime]:
    url = store.sign(key, expires_in=timedelta(minutes=5), content_type="image/png", content_disposition=DISPOSITION)
    parts = urlsplit(url.url)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"https://media.acme.example/objects/{key}"
    return dict(parse_qsl(parts.query)), url.expires_at


def refusal(store: FolderStore, key: str, query: dict[str, str], now: datetime) -> str:
    with pytest.raises(Refused) as refused:
        store.urls.verify(key, query, now)
    return refused.value.code


def test_a_signed_url_entitles_to_its_key_type_and_disposition() -> None:
    store = opened()
    query, expires_at = signed(store)
    assert store.urls.verify(KEY, query, expires_at - timedelta(seconds=1)) == SignedRequest(
        KEY, "image/png", DISPOSITION
    )


def test_it_is_shaped_like_a_presigned_url_of_s3_as_the_published_page_shows_one() -> None:
    """`…/tenant/…/sha256?X-Amz-…`: what reads its time from the URL finds it under S3's names."""
    query, expires_at = signed(opened())
    assert query["X-Amz-Expires"] == "300"
    signed_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert signed_at + timedelta(minutes=5) == expires_at
    assert query["response-content-type"] == "image/png"
    assert query["response-content-disposition"] == DISPOSITION


def test_it_ends_at_the_moment_it_names_about_five_minutes_from_now() -> None:
    store = opened()
    query, expires_at = signed(store)
    assert timedelta(minutes=4) < expires_at - datetime.now(UTC) <= timedelta(minutes=5)
    assert refusal(store, KEY, query, expires_at) == "signature_expired"


@pytest.mark.parametrize(
    "change",
    [
        {"response-content-type": "text/html"},
        {"response-content-disposition": "inline"},
        {"X-Amz-Expires": "99999999999"},
        {"X-Amz-Expires": ""},
        {"X-Amz-Date": "20990101T000000Z"},
        {"X-Amz-Date": "soon"},
        {"X-Amz-Signature": ""},
        {"X-Amz-Signature": "0" * 64},
        {"X-Amz-Signature": "ä\udc80"},
        # One field loses characters that the other gains: the fields are signed with their lengths.
        {"response-content-type": "image/p", "response-content-disposition": f"ng{DISPOSITION}"},
    ],
)
def test_whatever_is_changed_in_the_query_is_refused(change: dict[str, str]) -> None:
    store = opened()
    query, expires_at = signed(store)
    assert refusal(store, KEY, query | change, expires_at - timedelta(minutes=1)) == "signature_invalid"


def test_a_query_without_its_parts_is_refused() -> None:
    store = opened()
    assert refusal(store, KEY, {}, datetime.now(UTC)) == "signature_invalid"


@pytest.mark.parametrize("key", [content_key("acme", "cd" * 32), "tenant/acme/../acme/x", "", f"{KEY}/", "tenant/x/y"])
def test_a_signature_fits_no_other_key(key: str) -> None:
    store = opened()
    query, expires_at = signed(store)
    assert refusal(store, key, query, expires_at - timedelta(minutes=1)) == "signature_invalid"


def test_a_url_of_another_tenant_or_another_signing_key_is_refused() -> None:
    query, expires_at = signed(opened())
    now = expires_at - timedelta(minutes=1)
    assert refusal(opened(signing_key=b"other" * 8), KEY, query, now) == "signature_invalid"
    assert refusal(opened(tenant_id="acme2"), KEY, query, now) == "signature_invalid"


def test_a_short_signing_key_is_refused_and_without_one_nothing_is_signed() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        opened(signing_key=b"short")
    store = opened(signing_key=b"")
    with pytest.raises(RuntimeError, match="without a signing key"):
        signed(store)
    with pytest.raises(RuntimeError, match="without a signing key"):
        store.urls.verify(KEY, {"X-Amz-Signature": ""}, datetime.now(UTC))


def test_a_foreign_key_is_never_signed() -> None:
    with pytest.raises(ValueError, match="not a key of tenant acme"):
        signed(opened(), content_key("other", "ab" * 32))
