"""ThumbHash, read back by the decoder's first half: the mean colour, the sides, and what the coefficients draw."""

import base64
import math

import pytest
from PIL import Image

from media_core.decoding.thumbhash import thumbhash
from tests.fixtures import media


def bits(value: int, start: int, count: int) -> int:
    return value >> start & (1 << count) - 1


def mean_colour(hashed: bytes) -> tuple[float, float, float]:
    """From 0 to 1 (thumbHashToAverageRGBA)."""
    head = int.from_bytes(hashed[:3], "little")
    l, p, q = bits(head, 0, 6) / 63, bits(head, 6, 6) / 31.5 - 1, bits(head, 12, 6) / 31.5 - 1  # noqa: E741
    blue = l - 2 / 3 * p
    red = (3 * l - blue + q) / 2
    return red, red - q, blue


def sides(hashed: bytes) -> tuple[int, int]:
    """Columns and rows of the luminance (thumbHashToApproximateAspectRatio)."""
    has_alpha, is_landscape = hashed[2] & 0x80, hashed[4] & 0x80
    most = 5 if has_alpha else 7
    return (most, hashed[3] & 7) if is_landscape else (hashed[3] & 7, most)


def luminance(hashed: bytes, x: float, y: float) -> float:
    """At a place from 0 to 1 (thumbHashToRGBA)."""
    head = int.from_bytes(hashed[:3], "little")
    columns, rows = (max(3, side) for side in sides(hashed))
    at, scale = (6 if head >> 23 else 5) * 2, bits(head, 18, 5) / 31
    value = bits(head, 0, 6) / 63
    for cy in range(rows):
        for cx in range(columns):
            if (cx or cy) and cx * rows < columns * (rows - cy):
                nibble = hashed[at // 2] >> 4 * (at % 2) & 15
                value += (nibble / 7.5 - 1) * scale * 2 ** ((cx > 0) + (cy > 0)) * _wave(cx, x) * _wave(cy, y)
                at += 1
    return value


def _wave(number: int, at: float) -> float:
    return math.cos(math.pi * number * at)


def hashed(image: Image.Image) -> bytes:
    return base64.b64decode(thumbhash(image), validate=True)


@pytest.mark.parametrize("colour", [media.RED, media.GREEN, media.BLUE, media.WHITE, (0, 0, 0), (255, 255, 255)])
def test_the_mean_colour_is_the_pictures(colour: tuple[int, int, int]) -> None:
    found = mean_colour(hashed(Image.new("RGB", (30, 20), colour)))
    assert all(abs(a - b / 255) < 0.04 for a, b in zip(found, colour, strict=True))


def test_the_mean_colour_does_not_count_what_is_transparent() -> None:
    picture = Image.new("RGBA", (40, 40), (0, 255, 0, 0))
    picture.paste((*media.RED, 255), (0, 0, 20, 40))
    found = hashed(picture)
    assert found[2] & 0x80
    assert all(abs(a - b / 255) < 0.04 for a, b in zip(mean_colour(found), media.RED, strict=True))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 100), (7, 7)), ((1_000, 500), (7, 4)), ((500, 1_000), (4, 7)), ((1_024, 1), (7, 1)), ((1, 1_024), (1, 7))],
)
def test_the_sides_are_the_pictures(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert sides(hashed(media.quadrants(*size) if min(size) > 1 else Image.new("RGB", size, "red"))) == expected


def test_light_and_dark_are_where_they_are() -> None:
    picture = Image.new("RGB", (80, 60), "black")
    picture.paste("white", (40, 0, 80, 30))
    found = hashed(picture)
    for x, y, expected in ((0.25, 0.25, 0), (0.75, 0.25, 1), (0.25, 0.75, 0), (0.75, 0.75, 0)):
        assert abs(luminance(found, x, y) - expected) < 0.25, (x, y)


@pytest.mark.parametrize(("mode", "length"), [("RGB", 5 + (27 + 5 + 5 + 1) // 2), ("RGBA", 6 + (14 + 5 + 5 + 14) // 2)])
def test_the_length_is_what_the_format_says(mode: str, length: int) -> None:
    picture = media.quadrants(50, 50).convert(mode)
    if mode == "RGBA":
        picture.putalpha(128)
    assert len(hashed(picture)) == length


def test_nothing_to_see_is_hashed_as_well() -> None:
    assert hashed(Image.new("RGBA", (3, 3)))[2] & 0x80
