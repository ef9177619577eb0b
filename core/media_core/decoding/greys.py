"""Pictures of measured values: scans, microscopes, satellites. Runs in the child.

Their samples have no white of their own, so what is there is spread from black to white: from the least value to the
greatest, or from 0 to 1 where all values lie in it. Values far from all others do not count: a code for "no data", or
pixels that are broken. The white of a page and the ink on it may be as far from each other, and count.
"""

from __future__ import annotations

import contextlib
import itertools
from array import array
from bisect import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

SAMPLED_SIDE = 256
"""Pixels. The range is looked for in so many columns and rows."""

LEAST_VALUES = 50
"""Of fewer different values all count."""

FEW = 500
"""Of two groups of pixels that are far apart, one is broken if the other has so many times as many pixels."""

FAR = 10
"""A value that many pixels have is a code if it is below zero, or so many times as large as all others."""

WHITES = (1, 100, 255, 1_023, 4_095, 16_383, 65_535)
"""Which no such code is: of fractions, percents, and samples of 8 to 16 bits."""

LEAST_FRACTION = 0.05
"""Where the greatest of values from 0 to 1 is below it, hardly anything would be seen."""

LARGEST_VALUE = 1e30
"""Larger numbers stand for "no data"."""

_MIN_IS_WHITE = 0
_PHOTOMETRIC, _NO_DATA = 262, 42113
"""TIFF 6.0; GDAL's tag, a number as text."""


def visible(image: Image.Image) -> Image.Image:
    """A picture of mode I, F or I;16 as L."""
    return visible_bands([image], getattr(image, "tag_v2", {}))[0]


def visible_bands(bands: Sequence[Image.Image], tags: Mapping[int, Any]) -> list[Image.Image]:
    """Pictures of one such mode, with one range for all of them. `tags`: of the TIFF that they come from."""
    no_data = None
    with contextlib.suppress(ValueError):
        (no_data,) = array("f", [float(str(tags.get(_NO_DATA)).strip("\0 "))])  # as near as the samples
    if bands[0].mode.startswith("I;16"):
        bands = [band.convert("I") for band in bands]
    ranges = [_range(band, no_data) for band in bands]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if bands[0].mode == "F" and low >= 0 and LEAST_FRACTION <= high <= 1:
        low, high = 0.0, 1.0
    scale = 255 / (high - low) if high > low else 0.0
    offset = -low * scale if scale else 128.0 * (low != 0)
    if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE:
        scale, offset = -scale, 255 - offset
    return [band.point(lambda value: value * scale + offset).convert("L") for band in bands]


def every(wide: Image.Image, count: int, number: int) -> Image.Image:
    """Of a picture whose samples lie beside each other, `count` a pixel, those with this number, from 0."""
    # NEAREST takes the sample at the middle of each target pixel.
    return wide.transform(
        (wide.width // count, wide.height),
        Image.Transform.AFFINE,
        (count, 0, number + 0.5 - count / 2, 0, 1, 0),
        Image.Resampling.NEAREST,
    )


def _range(image: Image.Image, no_data: float | None) -> tuple[float, float]:
    sides = min(image.width, SAMPLED_SIDE), min(image.height, SAMPLED_SIDE)
    sample = array("f" if image.mode == "F" else "i", image.resize(sides, Image.Resampling.NEAREST).tobytes())
    found = Counter(value for value in sample if abs(value) < LARGEST_VALUE and value != no_data)
    values = sorted(found)
    pixels = [0, *itertools.accumulate(found[value] for value in values)]
    first, last = 0, len(values) - 1
    while last - first >= LEAST_VALUES:
        middle = bisect(values, (values[first] + values[last]) / 2, first, last)
        below, above = pixels[middle] - pixels[first], pixels[last + 1] - pixels[middle]
        if 2 * (values[middle] - values[middle - 1]) <= values[last] - values[first]:
            break
        if below * FEW <= above or (middle == first + 1 and values[first] < 0):
            first = middle
        elif above * FEW <= below or (middle == last and _is_code(values[last], values[last - 1])):
            last = middle - 1
        else:
            break
    return (values[first], values[last]) if values else (0.0, 0.0)


def _is_code(greatest: float, other: float) -> bool:
    """Whether the greatest value is a code for "no data", by the greatest one of the others."""
    return greatest > 1 and greatest >= FAR * other and greatest not in WHITES
