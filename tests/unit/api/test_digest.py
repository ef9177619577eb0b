"""The sha-256 that Content-Digest and Repr-Digest announce (RFC 9530)."""

import base64

import pytest

from media_api.requests.receiving import MAX_DIGEST_CHARACTERS, file_digest
from media_core.errors import Refused

ONE, TWO = (f"sha-256=:{base64.b64encode(bytes([fill] * 32)).decode()}:" for fill in (1, 2))


@pytest.mark.parametrize(
    "headers",
    [
        (ONE,),
        (f"  {ONE}  ",),
        (f"sha-512=:AAAA:, {ONE}",),
        (f"{ONE},sha-512=:AAAA:",),
        (f"{ONE};from=cache",),
        (f'note="a, {TWO}", {ONE}',),
        (ONE, ONE),
        (None, ONE),
        ("md5=:AAAA:", ONE),
    ],
)
def test_a_sha_256_is_found_beside_whatever_else_is_sent(headers: tuple[str | None, ...]) -> None:
    assert file_digest(*headers) == "01" * 32


@pytest.mark.parametrize("header", [None, "", "md5=:AAAA:", "md5", "garbage?", 'note="sha-256"', "SHA-256=:AAAA:"])
def test_other_algorithms_are_left_alone(header: str | None) -> None:
    assert file_digest(header) is None


@pytest.mark.parametrize(
    "header",
    [
        "sha-256=:AAAA:",
        "sha-256=:not base64!:",
        "sha-256=::",
        "sha-256",
        "sha-256=1",
        f"sha-256=({ONE.partition('=')[2]})",
        ONE.replace(":", ""),
        ONE + "," * MAX_DIGEST_CHARACTERS,
        f"{ONE}, ü",
    ],
)
def test_a_sha_256_that_cannot_be_read_is_refused(header: str) -> None:
    with pytest.raises(Refused) as refused:
        file_digest(header)
    assert refused.value.code == "bad_request"


def test_two_headers_that_differ_are_refused() -> None:
    with pytest.raises(Refused) as refused:
        file_digest(ONE, TWO)
    assert refused.value.code == "digest_mismatch"
