"""File names in Content-Disposition (RFC 6266), and which picture a client prefers."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_api.answers.downloads import content_disposition, disposition_of, prefers_jpeg


def test_a_plain_name_stands_as_it_is() -> None:
    assert content_disposition("photo-1.jpg", inline=True) == 'inline; filename="photo-1.jpg"'


@pytest.mark.parametrize(
    ("name", "plain", "real"),
    [
        ("my photo.jpg", "my photo.jpg", "my%20photo.jpg"),
        ("Übung №1.pdf", "_bung _1.pdf", "%C3%9Cbung%20%E2%84%961.pdf"),
        ('a"b\\c.txt', "a_b_c.txt", "a%22b%5Cc.txt"),
        ("50%.txt", "50_.txt", "50%25.txt"),
        ("a;b.txt", "a_b.txt", "a%3Bb.txt"),
        ("写真.png", "__.png", "%E5%86%99%E7%9C%9F.png"),
    ],
)
def test_any_other_name_is_sent_twice_plain_and_in_utf_8(name: str, plain: str, real: str) -> None:
    wanted = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{real}"
    assert content_disposition(name, inline=False) == wanted


@given(st.text(min_size=1).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_no_name_breaks_out_of_the_header_and_every_name_comes_back(name: str) -> None:
    header = content_disposition(name, inline=False)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    _, _, real = header.partition("filename*=UTF-8''")
    assert unquote(real) == name if real else f'filename="{name}"' in header


@pytest.mark.parametrize(
    ("mime_type", "kind"),
    [
        ("image/jpeg", "inline"),
        ("video/mp4", "inline"),
        ("audio/mpeg", "inline"),
        ("application/pdf", "inline"),
        ("text/plain", "inline"),
        ("image/svg+xml", "attachment"),
        ("text/html", "attachment"),
        ("application/xhtml+xml", "attachment"),
        ("text/xml", "attachment"),
        ("text/javascript", "attachment"),
        ("application/octet-stream", "attachment"),
    ],
)
def test_only_types_that_carry_no_script_are_shown_in_place(mime_type: str, kind: str) -> None:
    assert disposition_of("f", mime_type).startswith(kind)


@pytest.mark.parametrize(
    ("accept", "jpeg"),
    [
        (None, False),
        ("*/*", False),
        ("image/*", False),
        ("image/webp", False),
        ("image/jpeg", True),
        ("image/avif,image/webp,image/apng,*/*;q=0.8", False),
        ("image/jpeg, image/webp;q=0.5", True),
        ("image/jpeg;q=0.5, image/webp", False),
        ("image/webp;q=0, */*", True),
        ("image/jpeg;q=nonsense, */*", False),
        ("text/html", False),
        (",,;;q=", False),
    ],
)
def test_webp_is_sent_unless_the_client_prefers_jpeg(accept: str | None, jpeg: bool) -> None:
    assert prefers_jpeg(accept) is jpeg
