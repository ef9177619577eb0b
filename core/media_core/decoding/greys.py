"""Pictures of measured values: scans, microscopes, satellites. Runs in the child.

Their samples have no white of their own, so what is there is spread from black to white: from the least value to the
greatest, or from 0 to 1 where all values lie in it. Values far from all others do not count: a code for "no data", or
pixels that are broken.
"""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

SAMPLED_SIDE = 256
"""Pixels. The range is looked for in so many columns and rows."""

FEW = 50
"""Of two groups of values that are far apart, one does not count if the other has so many times as many values."""

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
    values = sorted(value for value in {*sample} if abs(value) < LARGEST_VALUE and value != no_data)
    first, last = 0, len(values) - 1
    while last - first >= FEW:
        middle = bisect(values, (values[first] + values[last]) / 2, first, last)
        gap, below, above = values[middle] - values[middle - 1], middle - first, last + 1 - middle
        if 2 * gap <= values[last] - values[first] or max(below, above) < FEW * min(below, above):
            break
        first, last = (first, middle - 1) if below > above else (middle, last)
    return (values[first], values[last]) if values else (0.0, 0.0)
