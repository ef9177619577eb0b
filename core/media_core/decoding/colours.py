"""Coded colours, as pictures and films have them, shown in sRGB. Runs in the child.

A picture says its colours by an ICC profile, or by the code points of ITU-T H.273: primaries and transfer. PQ and HLG
(ITU-R BT.2100) are scenes of up to 1,000 cd/m²; their reference white is 203 (ITU-R BT.2408). They are mapped into the
range up to reference white by the curve of ITU-R BT.2390 (5.4.1), on the largest of the three linear components, so
that the hue stays. What sRGB's primaries cannot show is cut off.
"""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass

from PIL import Image, ImageCms, ImageFilter

PQ, HLG = 16, 18
BT2020, DCI_P3, DISPLAY_P3 = 9, 11, 12
WHITE = 203.0
"""cd/m² of reference white, which becomes sRGB's white."""

PEAK = 1_000.0
"""cd/m² of the brightest part of a scene: what most films are graded for, and HLG's nominal peak."""

NODES = 33
"""Nodes of the lookup table on each axis. It is interpolated between them."""

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

_TO_BT709 = {
    # ITU-R BT.2087, 2; SMPTE EG 432-1 with the white point D65
    BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    DCI_P3: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
    DISPLAY_P3: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}


@dataclass(frozen=True)
class Coding:
    """Code points of ITU-T H.273. 2: unspecified."""

    primaries: int
    transfer: int

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (PQ, HLG)

    @property
    def is_srgb(self) -> bool:
        """Whether it is shown as sRGB without a conversion, as browsers do with BT.601 and BT.709."""
        return not self.is_hdr and self.primaries not in _TO_BT709


def to_srgb(image: Image.Image, coding: Coding | None = None) -> Image.Image:
    """The picture as RGB or RGBA in sRGB. A colour profile that cannot be used is ignored.

    `coding` holds where the picture has no profile, and always for PQ and HLG.
    """
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    profile = image.info.get("icc_profile")
    if profile and not (coding and coding.is_hdr):
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB, outputMode=mode
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
        else:
            if converted is not None:
                return converted
    image = image.convert(mode)
    return image if coding is None or coding.is_srgb else image.filter(_table(coding))


@functools.lru_cache(4)
def _table(coding: Coding) -> ImageFilter.Color3DLUT:
    matrix = _TO_BT709.get(coding.primaries)
    linear = [_linear(index / (NODES - 1), coding.transfer) for index in range(NODES)]

    def shown(red: float, green: float, blue: float) -> tuple[float, float, float]:
        light = [linear[round(value * (NODES - 1))] for value in (red, green, blue)]
        if coding.transfer == HLG:
            luminance = 0.2627 * light[0] + 0.6780 * light[1] + 0.0593 * light[2]
            # BT.2100, table 5: the system's gamma is 1.2 for a display of 1,000 cd/m²
            light = [PEAK / WHITE * luminance**0.2 * value for value in light]
        if coding.is_hdr and (brightest := max(light)) > 0:
            light = [value / brightest * _mapped(brightest) for value in light]
        if matrix:
            light = [sum(a * b for a, b in zip(row, light, strict=True)) for row in matrix]
        r, g, b = (_srgb(value) for value in light)
        return r, g, b

    return ImageFilter.Color3DLUT.generate(NODES, shown)


def _linear(value: float, transfer: int) -> float:
    """Light of a coded value, 1.0 being reference white; of HLG the scene's light from 0 to 1."""
    if transfer == PQ:
        return _pq_light(value) / WHITE
    if transfer == HLG:  # BT.2100, table 5
        return value * value / 3 if value <= 0.5 else (math.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
    # Also of BT.709: browsers show it as if it were sRGB.
    return value / 12.92 if value <= 0.04045 else math.pow((value + 0.055) / 1.055, 2.4)


def _srgb(light: float) -> float:
    light = min(max(light, 0.0), 1.0)
    return 12.92 * light if light <= 0.0031308 else 1.055 * math.pow(light, 1 / 2.4) - 0.055


def _pq_light(value: float) -> float:
    """cd/m² (BT.2100, table 4)."""
    root = math.pow(value, 1 / 78.84375)
    return 10_000 * math.pow(max(root - 0.8359375, 0.0) / (18.8515625 - 18.6875 * root), 1 / 0.1593017578125)


def _pq_value(light: float) -> float:
    power = math.pow(light / 10_000, 0.1593017578125)
    return math.pow((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power), 78.84375)


def _mapped(light: float) -> float:
    """Light from 0 to PEAK, within 0 to WHITE; both in multiples of WHITE."""
    peak = _pq_value(PEAK)
    most = _pq_value(WHITE) / peak
    knee = 1.5 * most - 0.5
    value = min(_pq_value(light * WHITE) / peak, 1.0)
    if value > knee:
        t = (value - knee) / (1 - knee)
        value = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return _pq_light(value * peak) / WHITE
