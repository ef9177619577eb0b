"""Range, If-Range and If-None-Match (RFC 9110)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_api.answers.downloads import byte_range, fails, not_modified, range_still_holds
from media_core.errors import Refused

ETAG = '"9f86d0"'


@pytest.mark.parametrize(
    ("header", "start", "length"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9", 0, 10),
        ("bytes=10-", 10, 90),
        ("bytes=99-", 99, 1),
        ("bytes=-1", 99, 1),
        ("bytes=-100", 0, 100),
        ("bytes=-5000", 0, 100),
        ("bytes=90-5000", 90, 10),
        ("bytes= 5-6 ", 5, 2),
        ("BYTES=5-6", 5, 2),
        ("bytes=5-6, 9-10", 5, 2),
        ("bytes=5-6,", 5, 2),
        ("bytes=100-200, 5-6", 5, 2),
        ("bytes=-0, 100-, -5000", 0, 100),
        ("bytes=,, 5-6", 5, 2),
        (f"bytes=5-{'9' * 30}", 5, 95),
        (f"bytes=-{'9' * 30}", 0, 100),
        (f"bytes={'0' * 30}5-6", 5, 2),
    ],
)
def test_the_first_range_that_the_file_has_is_answered(header: str, start: int, length: int) -> None:
    wanted = byte_range(header, 100)
    assert wanted is not None
    assert (wanted.start, wanted.length) == (start, length)
    assert wanted.content_range == f"bytes {start}-{start + length - 1}/100"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=5",
        "bytes=a-b",
        "bytes=5-3",
        "items=0-1",
        "bytes=1-2,x",
        "bytes=1-2,5-3",
        "bytes=١-٢",
    ],
)
def test_what_is_no_range_gets_everything(header: str | None) -> None:
    assert byte_range(header, 100) is None


@pytest.mark.parametrize(
    "header",
    [
        "bytes=100-",
        "bytes=100-200",
        "bytes=-0",
        "bytes=100-, 200-300",
        "bytes=999999999999999999-",
        f"bytes={'9' * 30}-",
    ],
)
def test_a_range_beyond_the_end_is_refused_with_the_size(header: str) -> None:
    with pytest.raises(Refused) as refused:
        byte_range(header, 100)
    assert refused.value.code == "range_not_satisfiable"
    assert refused.value.facts == {"size": 100}


@given(st.text(max_size=30), st.integers(1, 10**12))
def test_no_header_asks_for_bytes_that_do_not_exist(text: str, size: int) -> None:
    for header in (text, f"bytes={text}"):
        try:
            wanted = byte_range(header, size)
        except Refused:
            continue
        assert wanted is None or (wanted.start >= 0 and wanted.length > 0 and wanted.start + wanted.length <= size)


@pytest.mark.parametrize(
    ("header", "same"),
    [
        (None, False),
        ("", False),
        (ETAG, True),
        (f"W/{ETAG}", True),
        (f'"other", {ETAG}', True),
        ("*", True),
        ('"other"', False),
        ("9f86d0", False),
    ],
)
def test_a_client_that_has_it_is_told_so(header: str | None, same: bool) -> None:
    assert not_modified(header, ETAG) is same


@pytest.mark.parametrize(
    ("header", "holds"),
    [(None, True), (ETAG, True), (f"W/{ETAG}", False), ('"old"', False), ("Sat, 29 Oct 1994 19:43:31 GMT", False)],
)
def test_a_range_of_another_version_is_not_sent(header: str | None, holds: bool) -> None:
    assert range_still_holds(header, ETAG) is holds


@pytest.mark.parametrize(
    ("header", "failed"),
    [
        (None, False),
        ("*", False),
        (ETAG, False),
        (f'"x", {ETAG}', False),
        (f'W/"x", {ETAG}', False),
        ("", True),
        ('"x"', True),
        (f"W/{ETAG}", True),
        (f'W/{ETAG}, "x"', True),
    ],
)
def test_if_match_compares_strongly(header: str | None, failed: bool) -> None:
    assert fails(header, ETAG) is failed
