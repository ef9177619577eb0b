"""ThumbHash: some 20 bytes that a client shows as a blurred picture until the thumbnail has come.

The format is the one of https://github.com/evanw/thumbhash (MIT): the mean colour, and the coefficients of a cosine
transform of luminance (up to 7 x 7), of two colour differences (3 x 3) and of alpha (5 x 5), of four bits each.
"""

from __future__ import annotations

import base64
import math

from PIL import Image

LONGEST_SIDE = 100
"""Pixels. The format's own bound for the picture that is transformed."""


def thumbhash(image: Image.Image) -> str:
    """The hash of an RGB or RGBA picture in sRGB, as base64."""
    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    return base64.b64encode(_hashed(small.width, small.height, small.convert("RGBA").tobytes())).decode()


def _hashed(width: int, height: int, pixels: bytes) -> bytes:
    count = width * height
    alpha = [value / 255 for value in pixels[3::4]]
    covered = sum(alpha)
    # Where the picture is transparent, its mean colour stands.
    channels = [[a * value / 255 for a, value in zip(alpha, pixels[at::4], strict=True)] for at in range(3)]
    means = [sum(channel) / covered if covered else 0.0 for channel in channels]
    red, green, blue = (
        [value + mean * (1 - a) for value, a in zip(channel, alpha, strict=True)]
        for channel, mean in zip(channels, means, strict=True)
    )
    has_alpha = covered < count
    most = 5 if has_alpha else 7  # fewer bits of luminance where alpha needs some
    longest = max(width, height)
    columns, rows = max(1, _rounded(most * width / longest)), max(1, _rounded(most * height / longest))
    luminance = [(r + g + b) / 3 for r, g, b in zip(red, green, blue, strict=True)]
    yellow_blue = [(r + g) / 2 - b for r, g, b in zip(red, green, blue, strict=True)]
    red_green = [r - g for r, g in zip(red, green, strict=True)]
    l_dc, l_ac, l_scale = _encoded(luminance, width, height, max(3, columns), max(3, rows))
    p_dc, p_ac, p_scale = _encoded(yellow_blue, width, height, 3, 3)
    q_dc, q_ac, q_scale = _encoded(red_green, width, height, 3, 3)

    is_landscape = width > height
    head = (
        _rounded(63 * l_dc)
        | _rounded(31.5 + 31.5 * p_dc) << 6
        | _rounded(31.5 + 31.5 * q_dc) << 12
        | _rounded(31 * l_scale) << 18
        | has_alpha << 23
    )
    sides = (rows if is_landscape else columns) | _rounded(63 * p_scale) << 3 | _rounded(63 * q_scale) << 9
    sides |= is_landscape << 15
    found = bytearray(head.to_bytes(3, "little") + sides.to_bytes(2, "little"))
    parts = [l_ac, p_ac, q_ac]
    if has_alpha:
        a_dc, a_ac, a_scale = _encoded(alpha, width, height, 5, 5)
        found.append(_rounded(15 * a_dc) | _rounded(15 * a_scale) << 4)
        parts.append(a_ac)
    nibbles = [_rounded(15 * coefficient) for part in parts for coefficient in part]
    nibbles += [0] * (len(nibbles) % 2)
    found.extend(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return bytes(found)


def _encoded(
    channel: list[float], width: int, height: int, columns: int, rows: int
) -> tuple[float, list[float], float]:
    """The mean, the coefficients of the transform's upper left triangle from 0 to 1, and their scale."""
    across = [[math.cos(math.pi / width * cx * (x + 0.5)) for x in range(width)] for cx in range(columns)]
    down = [[math.cos(math.pi / height * cy * (y + 0.5)) for y in range(height)] for cy in range(rows)]
    lines = [channel[at : at + width] for at in range(0, width * height, width)]
    by_column = [
        [sum(value * wave for value, wave in zip(line, waves, strict=True)) for line in lines] for waves in across
    ]
    mean, found, scale = 0.0, [], 0.0
    for cy in range(rows):
        cx = 0
        while cx * rows < columns * (rows - cy):
            coefficient = sum(v * wave for v, wave in zip(by_column[cx], down[cy], strict=True)) / (width * height)
            if cx or cy:
                found.append(coefficient)
                scale = max(scale, abs(coefficient))
            else:
                mean = coefficient
            cx += 1
    if scale:
        found = [0.5 + 0.5 / scale * coefficient for coefficient in found]
    return mean, found, scale


def _rounded(value: float) -> int:
    """As JavaScript rounds: halves upwards."""
    return math.floor(value + 0.5)
