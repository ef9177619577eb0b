"""The headers of tus as clients send them: what is understood, and that nothing else breaks anything."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_api.requests import tus
from media_core.errors import Refused
from media_core.uploads.resumable import Checksum

ID = "upl-01JD0Z3V5QH7W8K2M4N6P8R0T2"


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.parametrize(
    ("sent", "filename", "claimed", "scope", "room"),
    [
        (None, "file", None, False, None),
        ("", "file", None, False, None),
        (f"filename {encoded(b'a.txt')},filetype {encoded(b'text/plain')}", "a.txt", "text/plain", False, None),
        (f"name {encoded('träume.txt'.encode())}, type {encoded(b'a/b')}", "träume.txt", "a/b", False, None),
        (f"filename {encoded('träume.txt'.encode('cp1252'))}", "träume.txt", None, False, None),
        (f"filename {encoded(b'../../etc/passwd')},is_confidential", "passwd", None, False, None),
        (f"room_id {encoded(b'garden')},tenant_scope {encoded(b'true')}", "file", None, True, "garden"),
        (f"filetype {encoded(b'a' * 200)},relativePath {encoded(b'null')}", "file", None, False, None),
    ],
)
def test_metadata(sent: str | None, filename: str, claimed: str | None, scope: bool, room: str | None) -> None:
    declared = tus.declared_of(sent)
    assert (declared.filename, declared.claimed_type) == (filename, claimed)
    assert (declared.tenant_scope, declared.room_id, declared.text) == (scope, room, sent or "")


@pytest.mark.parametrize(
    "sent", ["filename a", "filename YQ==,filename YQ==", "ä YQ==", ",", "filename YQ", "x" * 20_000]
)
def test_broken_metadata_is_refused(sent: str) -> None:
    with pytest.raises(Refused) as refused:
        tus.declared_of(sent)
    assert refused.value.code == "bad_request"


def test_fields_are_checked_as_those_of_the_form() -> None:
    for sent in (f"room_id {encoded(b'a/b')}", f"tenant_scope {encoded(b'maybe')}", f"labels {encoded(b'a=b')}"):
        with pytest.raises(Refused) as refused:
            tus.declared_of(sent)
        assert refused.value.code == "invalid_request"


def test_checksums() -> None:
    assert tus.checksum_of(None) is None
    assert tus.checksum_of("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=") == Checksum(
        "sha1", bytes.fromhex("2aae6c35c94fcfb415dbe95f408b9ce91ee846ed")
    )


@pytest.mark.parametrize(
    "sent", ["sha1", "sha1 ", "sha1 AAAA", "md5 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", "sha256 ?", "crc32 AAAA"]
)
def test_what_can_be_no_digest_is_not_compared_with_one(sent: str) -> None:
    with pytest.raises(Refused) as refused:
        tus.checksum_of(sent)
    assert refused.value.code == "bad_request"


@pytest.mark.parametrize(
    ("sent", "parts"),
    [
        (f"final;/v1/media/uploads/{ID}", (ID,)),
        (f"final;https://media.example/v1/media/uploads/{ID} /a/v1/media/uploads/{ID}", (ID, ID)),
    ],
)
def test_a_final_upload_names_its_parts(sent: str, parts: tuple[str, ...]) -> None:
    assert tus.concat_of(sent) == tus.FinalUpload(parts)
    assert tus.concat_of("partial") is True
    assert tus.concat_of(None) is False


@pytest.mark.parametrize("url", ["/files/a", f"/{ID}", ID, "/v1/media/uploads/", "http://[", "/v1/media/uploads/med-x"])
def test_a_part_that_can_be_none_is_unknown(url: str) -> None:
    with pytest.raises(Refused) as refused:
        tus.concat_of(f"final;{url}")
    assert refused.value.code == "not_found"


@given(st.text())
def test_no_header_breaks_anything(sent: str) -> None:
    for read in (
        tus.declared_of,
        tus.checksum_of,
        tus.concat_of,
        tus.check_version,
        lambda text: tus.number("Upload-Offset", text),
        lambda text: tus.length_of(text, None),
        lambda text: tus.length_of(None, text),
    ):
        with contextlib.suppress(Refused):
            read(sent)
