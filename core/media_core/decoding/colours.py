"""Coded colours, as pictures and films have them, shown in sRGB. Runs in the child.

A picture says its colours by an ICC profile, by the code points of ITU-T H.273 (primaries and transfer), or, in a PNG,
by a gamma and chromaticities, of which `profile_of` makes an ICC profile. PQ and HLG
(ITU-R BT.2100) are scenes of up to 1,000 cd/m²; their reference white is 203 (ITU-R BT.2408). They are mapped into the
range up to reference white by the curve of ITU-R BT.2390 (5.4.1), on the largest of the three linear components, so
that the hue stays. What sRGB's primaries cannot show is cut off.
"""

from __future__ import annotations

import functools
import io
import math
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageCms, ImageFilter, ImageMath

PQ, HLG = 16, 18
_BT709 = 1
BT2020, DCI_P3, DISPLAY_P3 = 9, 11, 12
WHITE = 203.0
"""cd/m² of reference white, which becomes sRGB's white."""

PEAK = 1_000.0
"""cd/m² of the brightest part of a scene: what most films are graded for, and HLG's nominal peak."""

MOST_LIGHT = 1e9
"""What stands for more, and for what is endless."""

SHADOW, MIDDLE = 0.05, 0.2
"""Light of a picture in which nothing can be seen, and of the middle of one that is exposed well; 1.0 is white."""

SMALL_SIDE = 1024
"""Pixels. Light is mapped where the longer side has less than two times as many."""

SAMPLED_SIDE = 64
"""Pixels. In so many columns and rows the exposure is looked for."""

NODES = 33
"""Nodes of the lookup table on each axis. It is interpolated between them."""

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

_TO_BT709 = {
    # ITU-R BT.2087, 2; SMPTE EG 432-1 with the white point D65
    BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    DCI_P3: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
    DISPLAY_P3: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}

_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
"""Transfers of plain powers (H.273, table 3), by which a coded value becomes light."""

_BT709_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_CHROMATICITIES = {
    BT2020: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    DCI_P3: (0.3140, 0.3510, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    DISPLAY_P3: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_LEAST_DIFFERENCE = 0.05
"""What makes less of a difference to the gamma is left as it is, as libpng does (PNG_GAMMA_THRESHOLD)."""

_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_FROM_BRADFORD = (
    (0.9869929, -0.1470543, 0.1599627),
    (0.4323053, 0.5183603, 0.0492912),
    (-0.0085287, 0.0400428, 0.9684867),
)
"""ICC.1:2022, annex E."""
_ICC_TAGS = 132
"""Where the table of a profile's tags begins (7.3)."""


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

    @property
    def profile(self) -> bytes | None:
        """An ICC profile that says the same, where the transfer is a plain power. Only still pictures are shown by it:
        players of films ignore such a power.
        """
        if self.transfer not in _GAMMAS:
            return None
        return profile_of(1 / _GAMMAS[self.transfer], _CHROMATICITIES.get(self.primaries))


def to_srgb(image: Image.Image, coding: Coding | None = None) -> Image.Image:
    """The picture as RGB or RGBA in sRGB. A colour profile that cannot be used is ignored.

    `coding` holds where the picture has no profile, and always for PQ and HLG.
    """
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    profile = image.info.get("icc_profile")
    coding = coding or _coding_in(profile or b"")
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


def _coding_in(profile: bytes) -> Coding | None:
    """What an ICC profile says of the coding beside its curves (ICC.1:2022, 9.2.17). Of PQ and HLG these are none."""
    entry = profile.find(b"cicp", _ICC_TAGS)
    if not 0 <= entry <= len(profile) - 8:
        return None
    (at,) = struct.unpack_from(">I", profile, entry + 4)
    said = profile[at : at + 10]
    return Coding(said[8], said[9]) if said.startswith(b"cicp") and len(said) == 10 else None


def light_to_srgb(given: Iterable[Image.Image]) -> Image.Image:
    """Linear light, 1.0 being white, as RGB or RGBA in sRGB, with no more pixels than a thumbnail needs.

    Given are red, green and blue of mode F, and perhaps alpha, by which they are multiplied.

    If there is anything brighter than white, all is mapped as of PQ. A picture in another unit than white is scaled: if
    half of it is brighter than can be mapped, or all of it is darker than a shadow.
    """
    small = (band.reduce(max(1, max(band.size) // SMALL_SIDE)) for band in given)
    *bands, alpha = [*(ImageMath.lambda_eval(_lit, band=band) for band in small), None][:4]
    cover: Image.Image | None = None
    if alpha is not None:
        cover = ImageMath.lambda_eval(lambda given: given["convert"](given["band"] * 255 + 0.5, "L"), band=alpha)
    if alpha is not None and cover is not None and cover.getextrema() not in ((0, 0), (255, 255)):
        bands = [ImageMath.lambda_eval(_undiluted, band=band, alpha=alpha) for band in bands]
    else:
        cover = None
    scale = _exposure(bands)
    has_more_than_white = max(float(band.getextrema()[1]) for band in bands) * scale > 1
    code = _in_pq if has_more_than_white else _in_srgb
    image = Image.merge("RGB", [ImageMath.lambda_eval(code, band=band, scale=scale) for band in bands])
    if has_more_than_white:
        image = to_srgb(image, Coding(_BT709, PQ))
    if cover is not None:
        image.putalpha(cover)
    return image


def _lit(given: dict[str, Any]) -> Any:
    """Without what is no light: numbers below zero, infinite ones, and NaN."""
    return given["min"](given["max"](given["band"], 0), MOST_LIGHT)


def _undiluted(given: dict[str, Any]) -> Any:
    return given["band"] / given["max"](given["alpha"], 1 / 255)


def _in_pq(given: dict[str, Any]) -> Any:
    power = (given["band"] * (given["scale"] * WHITE / 10_000)) ** 0.1593017578125
    value = ((power * 18.8515625 + 0.8359375) / (power * 18.6875 + 1)) ** 78.84375
    return given["convert"](given["min"](value, 1) * 255 + 0.5, "L")


def _in_srgb(given: dict[str, Any]) -> Any:
    value = (given["band"] * given["scale"]) ** (1 / 2.4) * 1.055 - 0.055
    return given["convert"](given["min"](given["max"](value, 0), 1) * 255 + 0.5, "L")


def _exposure(bands: Sequence[Image.Image]) -> float:
    values = array("f")
    for band in bands:
        values.frombytes(band.resize((SAMPLED_SIDE, SAMPLED_SIDE), Image.Resampling.NEAREST).tobytes())
    ordered = sorted(values)
    median, bright = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    if median > PEAK / WHITE:
        return MIDDLE / median
    return 1 / bright if 0 < bright < SHADOW else 1.0


def profile_of(gamma: float, chromaticities: Sequence[float] | None) -> bytes | None:
    """The ICC profile of a picture of this gamma (1: linear; below 1: coded) and these chromaticities (PNG, third
    edition, 11.3.2.1 and 11.3.2.2): x and y of white, red, green and blue. None: those of sRGB.

    Returns None where the picture is shown as it is: as sRGB, or if the numbers make no sense.
    """
    if not 0.1 <= gamma <= 10:
        return None
    stated = tuple(chromaticities or _BT709_CHROMATICITIES)
    is_bt709 = len(stated) != 8 or all(abs(a - b) < 0.01 for a, b in zip(stated, _BT709_CHROMATICITIES, strict=True))
    if is_bt709:
        stated = _BT709_CHROMATICITIES
        if abs(gamma * 2.2 - 1) < _LEAST_DIFFERENCE:
            return None
    try:
        columns = _columns(stated)
    except ZeroDivisionError:
        return None
    if max(abs(value) for column in columns for value in column) > 3:
        return None
    tags = {b"wtpt": _icc_xyz(_D50)}
    tags |= {name + b"XYZ": _icc_xyz(column) for name, column in zip((b"r", b"g", b"b"), columns, strict=True)}
    curve = b"curv" + bytes(4) + struct.pack(">IH2x", 1, round(256 / gamma))
    tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, at + len(body), len(content))
        body += content
    head = struct.pack(">I4xI4s4s4s12x4s", at + len(body), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return head.ljust(68, b"\0") + _icc_xyz(_D50)[8:].ljust(60, b"\0") + table + body


def _columns(chromaticities: Sequence[float]) -> list[list[float]]:
    """X, Y and Z of red, green and blue, adapted to D50. Raises ZeroDivisionError."""
    white, red, green, blue = (
        (x / y, 1.0, (1 - x - y) / y) for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True)
    )
    whole = _determinant(red, green, blue)
    shares = (
        _determinant(white, green, blue) / whole,
        _determinant(red, white, blue) / whole,
        _determinant(red, green, white) / whole,
    )
    scales = [to / of for to, of in zip(_times(_BRADFORD, _D50), _times(_BRADFORD, white), strict=True)]
    columns = []
    for primary, share in zip((red, green, blue), shares, strict=True):
        cones = _times(_BRADFORD, [share * value for value in primary])
        columns.append(_times(_FROM_BRADFORD, [cone * scale for cone, scale in zip(cones, scales, strict=True)]))
    return columns


def _determinant(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - b[0] * (a[1] * c[2] - a[2] * c[1]) + c[0] * (a[1] * b[2] - a[2] * b[1])


def _times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _icc_xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65_536) for value in values))


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
