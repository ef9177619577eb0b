"""Headers of recordings that FFmpeg misreads. Runs in the child.

AIFF, AU, Wave64 and RF64 whose recorder died before it wrote how long they are say zero, the length of nothing, or the
largest number. FFmpeg reads none of their sound. It takes a WAV of 24 bits in 32 for an old editor's, and makes noise
of it. It takes such a CAF for one of 24 bits. Where a WAV says a wrong number of bytes a second (as FFmpeg 5's of ADPCM
do) or of bytes a sample, it seeks to a wrong place. Behind a chunk of an odd length a byte is missing in some programs'
files, and it finds no other chunk. The samples of a RIFX, a WAV whose highest bytes come first, it takes in the wrong
order.
"""

from __future__ import annotations

import io
import itertools
import struct
from typing import IO, Literal

from media_core.decoding.damage import Lengthened

HEAD = 4096
"""So much of the beginning is looked at. The sound begins within it."""

ID3_HEAD = 10
_TAGGED = (b"RIFF", b"RF64", b"FORM", b"riff", b"caff")
"""Beginnings of sounds that FFmpeg does not look for behind a tag. Some programs put one before any sound."""

LONG_TAG = 256 << 10
"""Bytes of a tag (ID3), as of one with a large picture. Behind a longer one FFmpeg finds nothing but MP3."""

MOST_BEFORE_THE_SOUND = 1 << 20
MOST_CHUNKS = 100
"""Of a WAV or AIFF before its sound: so many bytes and chunks are looked at for a byte that is missing."""

_CHUNKS = frozenset(
    (
        *(b"fmt ", b"fact", b"data", b"LIST", b"bext", b"iXML", b"axml", b"cue ", b"smpl", b"inst", b"JUNK", b"PEAK"),
        *(b"id3 ", b"ID3 ", b"_PMX", b"chna", b"cart", b"COMM", b"SSND", b"NAME", b"AUTH", b"ANNO", b"(c) ", b"MARK"),
    )
)
_SOUNDS = (b"data", b"SSND")
"""Names of chunks of WAV (RFC 2361, EBU Tech 3285) and AIFF, and those that have the sound."""

_GUIDS = {name: name + bytes.fromhex("f3acd3118cd100c04f8edb8a") for name in (b"fmt ", b"data", b"wave")}
_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
"""Sony's Wave64: names of chunks."""

_FORMAT = struct.Struct("<HHIIHH2xH")
"""WAVEFORMATEX: codec, channels, samples and bytes a second, bytes of a block, bits of a sample, and what ADPCM adds:
samples of a block.
"""
_EXTENSIBLE, _CODEC_BEHIND = 0xFFFE, 24
"""A number that is no codec's, and how far behind it the codec's stands (WAVEFORMATEXTENSIBLE)."""

_FLOATS = 3
_BITS = {1: 16, _FLOATS: 32, 6: 8, 7: 8}
"""PCM, floats, A-law and mu-law by their number (RFC 2361), and the bits that most of them have."""

MOST_BITS = 64
"""Of a sample, in what FFmpeg decodes."""

_AU_ENCODINGS = {(1, 16): 3, (1, 24): 4, (1, 32): 5, (_FLOATS, 32): 6, (_FLOATS, 64): 7, (6, 8): 27, (7, 8): 1}
"""Sun's numbers of what a WAV says by a codec and its bits."""

_ADPCM, _G722, _GSM = (2, 0x11), 0x028F, 0x31
"""The first: of Microsoft and of IMA."""

_GSM_BLOCK, _GSM_SAMPLES = 65, 320
"""Bytes of a block of GSM 6.10, and its samples."""


def mended(file: IO[bytes]) -> IO[bytes]:
    """The file, with a header that FFmpeg understands."""
    file.seek(0)
    before = file.read(HEAD)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if before.startswith(b"ID3") and len(before) >= ID3_HEAD and (tag := length_of_tag(before)) < size:
        file.seek(tag)
        behind = file.read(8)
        file.seek(0)
        is_other = behind[:4] in _TAGGED or behind[4:] == b"ftyp"
        if is_other or tag > LONG_TAG:
            untagged = io.BufferedReader(Lengthened(file, b"", skipped=tag))
            return mended(untagged) if is_other else untagged
    head, kind = bytearray(before), before[:4]
    if before[8:12] in (b"WAVE", b"AIFF", b"AIFC") and (places := _missing_pads(file, size)):
        return mended(_padded(file, places))
    if kind == b"FORM" and before[8:12] in (b"AIFF", b"AIFC"):
        _finish_aiff(head, size)
    elif head[:16] == _RIFF:
        _finish_wave64(head, size)
        _count_bytes(head, _GUIDS[b"fmt "], 24)
    elif kind in (b"RF64", b"BW64") and before[12:16] == b"ds64":
        _finish_rf64(head, size)
        _count_bytes(head, b"fmt ", 8)
        _fill_samples(head)
    elif kind == b"RIFF" and before[8:12] == b"WAVE":
        _count_bytes(head, b"fmt ", 8)
        _fill_samples(head)
    elif head[:4] == b"caff" and head[8:12] == b"desc":
        _fill_samples_of_caf(head)
    elif kind == b"RIFX" and before[8:12] == b"WAVE" and (found := _as_au(before, size)):
        start, at = found
        return io.BufferedReader(Lengthened(file, b"", start=start, skipped=at - len(start)))
    elif kind == b".snd" and not any(head[8:12]):
        head[8:12] = b"\xff\xff\xff\xff"  # unknown (Sun's audio file format)
    return file if head == before else io.BufferedReader(Lengthened(file, b"", start=bytes(head)))


def length_of_tag(head: bytes) -> int:
    """Bytes of the ID3 tag that begins with these 10 or more. Seven bits of each count (ID3v2.4.0, 3.1 and 3.4)."""
    length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + length + (10 if head[5] & 0x10 else 0)


def _missing_pads(file: IO[bytes], size: int) -> list[int]:
    """Before which bytes one is missing: behind chunks of an odd length, up to the sound (EA IFF 85, RIFF of 1991)."""
    file.seek(0)
    order: Literal["big", "little"] = "big" if file.read(4) == b"FORM" else "little"
    found: list[int] = []
    at = 12
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        chunk = file.read(8)
        if len(chunk) < 8 or chunk[:4] in _SOUNDS:
            break
        at += 8 + int.from_bytes(chunk[4:], order)
        if at > min(size, MOST_BEFORE_THE_SOUND):
            break
        if at % 2 != len(found) % 2:
            file.seek(at)
            if file.read(4) in _CHUNKS:
                found.append(at)
            else:
                at += 1
    file.seek(0)
    return found


def _padded(file: IO[bytes], places: list[int]) -> IO[bytes]:
    """The file with a zero before each of these bytes."""
    file.seek(0)
    start = file.read(places[-1])
    pieces = (start[before:place] for before, place in itertools.pairwise((0, *places)))
    padded = b"".join(piece + b"\0" for piece in pieces)
    return io.BufferedReader(Lengthened(file, b"", start=padded, skipped=-len(places)))


def _as_au(head: bytes, size: int) -> tuple[bytes, int] | None:
    """An AU's header of the same sound, and where that begins; None where there is no such one."""
    at, encoding, rate, channels = 12, None, 0, 0
    while at + 8 <= len(head):
        name, length = struct.unpack_from(">4sI", head, at)
        at += 8
        if name == b"fmt " and at + 16 <= len(head):
            tag, channels, rate, _, _, bits = struct.unpack_from(">HHIIHH", head, at)
            encoding = _AU_ENCODINGS.get((tag, bits))
        elif name == b"data":
            known = min(min(length, size - at) or size - at, 0xFFFFFFFF)
            start = None if encoding is None else struct.pack(">4s5I", b".snd", 24, known, encoding, rate, channels)
            return None if start is None else (start, at)
        at += length + length % 2
    return None


def _finish_aiff(head: bytearray, size: int) -> None:
    """The length of FORM, and that of the sound, which counts 8 bytes more (Apple, AIFF 1.3)."""
    if int.from_bytes(head[4:8]) <= HEAD < size:
        head[4:8] = struct.pack(">I", min(size - 8, 0xFFFFFFFF))
    at = 12
    while at + 8 <= len(head):
        length = int.from_bytes(head[at + 4 : at + 8])
        if head[at : at + 4] == b"SSND":
            if length <= 8:
                head[at + 4 : at + 8] = struct.pack(">I", min(size - at - 8, 0xFFFFFFFF))
            return
        at += 8 + length + length % 2


def _finish_wave64(head: bytearray, size: int) -> None:
    """Lengths count their own 24 bytes, and chunks begin at multiples of 8."""
    if not HEAD < int.from_bytes(head[16:24], "little") <= size:
        head[16:24] = struct.pack("<Q", size)
    at = 40
    while at + 24 <= len(head):
        length = int.from_bytes(head[at + 16 : at + 24], "little")
        if head[at : at + 16] == _GUIDS[b"data"]:
            if not 24 < length <= size - at:
                head[at + 16 : at + 24] = struct.pack("<Q", size - at)
            return
        if length < 24:
            return
        at += (length + 7) // 8 * 8


def _finish_rf64(head: bytearray, size: int) -> None:
    """EBU Tech 3306: `ds64` has the lengths of the file, of the sound, and the number of samples."""
    at = 12
    while at + 8 <= len(head):
        length = int.from_bytes(head[at + 4 : at + 8], "little")
        if head[at : at + 4] == b"data":
            if int.from_bytes(head[28:36], "little") == 0:
                head[20:36] = struct.pack("<QQ", size - 8, size - at - 8)
            return
        at += 8 + length + length % 2


def _fill_samples(head: bytearray) -> None:
    """In WAVE_FORMAT_EXTENSIBLE samples are at the top of their bytes, so that the lower bits may count as well."""
    at = head.find(b"fmt ") + 8
    is_extensible = head[at : at + 2] == b"\xfe\xff" and head[at + 24 : at + 26] == b"\1\0"  # of PCM
    if at > 8 and is_extensible and any(head[at + 18 : at + 20]):
        head[at + 18 : at + 20] = head[at + 14 : at + 16]


def _fill_samples_of_caf(head: bytearray) -> None:
    """Of 24 bits at the top of 32 the lower ones may count as well (Apple, Core Audio Format: audio description)."""
    codec, flags, size, samples, channels, bits = struct.unpack_from(">4s5I", head.ljust(52, b"\0"), 28)
    if (codec, flags & 1, samples, bits) == (b"lpcm", 0, 1, 24) and size == 4 * channels > 0:
        head[48:52] = struct.pack(">I", 32)


def _count_bytes(head: bytearray, name: bytes, behind: int) -> None:
    """Of codecs of a constant rate: how many bytes a sample has, and a second. `behind`: where the format stands after
    the chunk's name.
    """
    at = head.find(name) + behind
    if not behind <= at <= len(head) - _FORMAT.size:
        return
    tag, channels, rate, second, block, bits, samples = _FORMAT.unpack_from(head, at)
    is_extensible = tag == _EXTENSIBLE
    if is_extensible:
        tag = int.from_bytes(head[at + _CODEC_BEHIND :][:2], "little")
    if tag in _BITS and channels:
        if bits == 0 or (tag == _FLOATS and bits not in (32, 64)):
            stated = 8 * (block // channels)
            bits = stated if 0 < stated <= MOST_BITS else _BITS[tag]
        # The bytes of a block and of a second agree on it, so the block is no mistake.
        is_in_four_bytes = bits == 24 and block == 4 * channels and second == rate * block
        block = block if is_in_four_bytes else min(channels * -(-bits // 8), 0xFFFF)
        bits = 32 if is_in_four_bytes and is_extensible else bits
        found = rate * block
    elif tag in _ADPCM and samples:
        found = rate * block // samples
    elif tag == _GSM:
        block, found = _GSM_BLOCK, rate * _GSM_BLOCK // _GSM_SAMPLES
    elif tag == _G722:
        found = rate * channels // 2
    else:
        return
    head[at + 8 : at + 16] = struct.pack("<IHH", min(found, 0xFFFFFFFF), block, bits)
