"""How long a recording is, where its header does not say so or may be wrong. Runs in the child."""

from __future__ import annotations

import io
import itertools
import math
import re
import struct
from collections.abc import Callable, Iterator
from typing import IO

from av.container import InputContainer

from media_core.decoding.containers import BACK, MOST_BYTES_TRIED, GoingOn, films_of, seek_to, start_of, until_broken
from media_core.decoding.headers import length_of_tag
from media_core.decoding.wire import BLOCK

MOST_BYTES_COUNTED = 64 << 20
"""Largest recording whose packets are read (not decoded) to find its duration when the header does not say it."""

MOST_PACKETS_COUNTED = 600_000
"""Most packets that are read for that: of small ones a child's CPU time allows no more."""
_SYNC = 0xFFE0
"""How a frame of an MP3 begins (ISO 11172-3, 2.4.2.3; 11 bits as of MPEG 2.5)."""
_HAS_FRAMES_AND_BYTES = 3
"""Flags of Xing's header: the number of frames and that of bytes follow."""

MOST_BYTES_BEHIND_MP3 = 4096
"""Of tags at an MP3's end, such as ID3v1 and APEv2, without a picture. With more its frames are counted."""

PIECES, PIECE = 8, 1 << 14
"""So many pieces of an MP3, of so many bytes, are looked at to see how long its frames are."""

LEAST_AMISS_OF_PIECES, MOST_AMISS_OF_PIECES = 0.01, 0.15
"""Shares by which the number of frames may differ from what the pieces let expect: where frames are counted otherwise,
and where they are too many to count.
"""
_KILOBITS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""A second of layer III: of MPEG 1, and of its sisters of lower rates."""

JOINED = frozenset(("mpegts", "mpeg", "flv", "rm", "ivf", "wtv"))
"""Formats whose files are joined byte by byte or cut anywhere. FFmpeg says the duration of one part, or what was
announced. So their packets are counted; they are large."""

MOST_AMISS = 0.5
"""Seconds by which a duration that is said may differ from that which is counted: streams need not end together."""

MOST_AMISS_OF: dict[str, float] = {"mpeg": 0.0, "mpegts": 0.0}
"""The same of formats by FFmpeg's name: of these it knows the last packet's timestamp, not how much is in it."""

OGG_BYTES = 1 << 16
"""Of an Ogg's start and of its end. A page has up to 65,307."""

_OGG_BEGINS = b"OggS\0\2"
"""The first page of a stream (RFC 3533, 6)."""

_BY_ITS_HEADER = frozenset(("flac", "aiff", "au", "caf", "voc", "wv", "wav", "w64"))
"""Formats of sound alone whose header says how long the whole is, also where the end is missing."""

_BY_ITS_INDEX = ("mov,", "tta", "ape", "avi")
"""The same, of which an index at the start, or at the very end, says where each packet is."""

MOST_BOXES = 10_000
_BOX = 8
"""Outermost boxes that are looked at, and the least length of one."""

ENDS = 1.0
"""Seconds before its end from which on packets are looked for."""

POSITIONS = 48
"""At so many places of a large file the clock is read, to see whether it begins again."""

_CLOCK_HERTZ = 90_000
MOST_OF_A_CLOCK = 2**33 / _CLOCK_HERTZ
"""The seconds after which the clock of an MPEG stream begins again by itself (ISO 13818-1, 2.4.3.5)."""

ASF_HEAD = 1 << 16
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""Before the properties of the file: among them its size, and whether it is a broadcast, whose numbers were not known
when it began (Advanced Systems Format, 3.2).
"""

_MATROSKA = b"\x1a\x45\xdf\xa3"
_CLUSTER = re.compile(rb"\x1f\x43\xb6\x75[\x01-\xff].{0,7}?\xe7([\x81-\x88])", re.DOTALL)
"""Its time is the first element in it (RFC 9559, 5.1.3.1)."""

_TIMESTAMP_SCALE = re.compile(rb"\x2a\xd7\xb1(?:\x83(.{3})|\x84(.{4})|\x82(.{2}))", re.DOTALL)
"""Nanoseconds of a unit (5.1.2.9)."""
LONGEST_STILL = 3600.0
"""Seconds. So long the last picture of a film may stay."""

_FLV_TAG = re.compile(rb"(?=[\x08\x09\x12](...)(...)(.)\0\0\0)", re.DOTALL)
_FLAC_FRAME = re.compile(rb"(?=\xff[\xf8\xf9][\x10-\xfe].[\x00-\x7f\xc0-\xfe])", re.DOTALL)
"""Sync code, sizes, channels, and how a number begins: of frames, or by the second code of samples (RFC 9639, 9.1)."""
MOST_SAMPLES_OF_A_FRAME = 65_535
_FLV_TAG_BYTES = 11
"""A tag's header has the type, the length of the data, and the time, whose highest byte comes last (Adobe's Video File
Format 10.1, E.4.1). The whole tag's length stands behind its data."""

_WITHOUT_A_DURATION = frozenset(
    ("aac", "loas", "amr", "ac3", "eac3", "dts", "dtshd", "mlp", "truehd", "gsm", "dss", "mpc8")
)
"""Formats that are nothing but frames: no header says how many. Of a Musepack FFmpeg says whole blocks of 1.7 s."""


def is_estimated(container: InputContainer, file: IO[bytes]) -> bool:
    """Whether the demuxer only guesses the duration, from the bit rate of the first packets and the file's size."""
    match container.format.name:
        case "mp3":
            return not _counts_its_frames(file)
        case "flac":
            head = bytes_at(file, 0, 26)
            # STREAMINFO's number of samples, 36 bits; 0: unknown (RFC 9639, 8.2).
            return head[:4] != b"fLaC" or int.from_bytes(head[21:26]) & 0xF_FFFF_FFFF == 0
        case "avi":  # without the index at its end
            stated = int.from_bytes(bytes_at(file, 4, 4), "little")
            return not 0 < stated <= size_of(file) - 8
        case "asf":
            said = bytes_at(file, 0, ASF_HEAD).partition(_ASF_FILE)[2]
            return len(said) < 84 or bool(said[72] & 1) or int.from_bytes(said[24:32], "little") != size_of(file)
        case "wav" | "w64":
            return any((s.codec_context is None or _varies(s.codec_context.name)) for s in container.streams.audio)
        case name:
            return name in _WITHOUT_A_DURATION


def ends_elsewhere(container: InputContainer, file: IO[bytes], duration: float) -> bool:
    """Whether the end of a recording is missing, so that it is shorter than its header says, or another one follows."""
    name, size = container.format.name, size_of(file)
    if name.startswith("matroska"):
        last = _last_clock_of_matroska(file)
        since = None if last is None else last - start_of(container)
        is_amiss = since is not None and not since - MOST_AMISS < duration < since + LONGEST_STILL
        return is_amiss or _end_of_segment(file) > size
    if name == "mxf":
        return _footer_of_mxf(file) >= size
    if name.startswith(_BY_ITS_INDEX):
        lasts = [stream.index_entries[-1] for stream in container.streams if len(stream.index_entries)]
        return any(last.pos + last.size > size for last in lasts)
    if name not in _BY_ITS_HEADER or (name == "wav" and not _is_coded(container)):
        return False  # of PCM in a WAV FFmpeg counts the bytes that are there
    if name == "wv" and size > MOST_BYTES_COUNTED:
        return False  # nothing can be sought in it
    seek_to(container, max(duration - ENDS, 0.0))
    read, ends, timeless = 0, 0.0, False
    for packet in until_broken(container, next(iter(container.streams.audio), None)):
        read += packet.size
        if packet.pts is not None and packet.time_base:
            ends = max(ends, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        elif packet.size:
            timeless = True
        if read > MOST_BYTES_TRIED:
            break
    return (ends > 0 or not timeless) and abs(ends - start_of(container) - duration) > MOST_AMISS


def _is_coded(container: InputContainer) -> bool:
    return any(s.codec_context is None or not s.codec_context.name.startswith("pcm_") for s in container.streams.audio)


def _end_of_segment(file: IO[bytes]) -> int:
    """Where a Matroska's segment ends by its header, in bytes of the file; 0: it does not say (RFC 8794, 4 and 6.2)."""
    head = bytes_at(file, 0, 4096)
    at = head.find(b"\x18\x53\x80\x67") + 4
    if at < 4 or at >= len(head) or not head[at]:
        return 0
    length = 9 - head[at].bit_length()
    bits = 7 * length
    said = int.from_bytes(head[at : at + length]) & ((1 << bits) - 1)
    return 0 if said == (1 << bits) - 1 else at + length + said


def ends_within_a_box(file: IO[bytes]) -> bool:
    """Whether the end of ISO media is missing, by the lengths of its outermost boxes (ISO 14496-12, 4.2)."""
    *_, (_, at, length) = outermost_boxes(file)
    return length >= _BOX and at + length > size_of(file)


def outermost_boxes(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Their names, where they begin and how long they are. The last one may have a length of 0, and goes to the end."""
    at, size = 0, size_of(file)
    for _ in range(MOST_BOXES):
        head = bytes_at(file, at, 16)
        length = int.from_bytes(head[:4])
        if length == 1:
            length = int.from_bytes(head[8:])
        yield head[4:8], at, length
        at += length
        if length < _BOX or at >= size:
            break


def _footer_of_mxf(file: IO[bytes]) -> int:
    """Where its footer begins by its header, in bytes; 0: it does not say (SMPTE 377-1, 6.3 and 7.1)."""
    head = bytes_at(file, 0, 64)
    value = 17 + (head[16] & 0x7F if head[16] & 0x80 else 0)
    return int.from_bytes(head[value + 24 : value + 32])


def begins_late(container: InputContainer) -> bool:
    """Whether its timestamps begin late, as where a part of a broadcast was kept. Some headers then say when it ends,
    counted from 0, in place of how long it is.
    """
    return start_of(container) > BACK


def is_matroska_of_several(container: InputContainer, file: IO[bytes]) -> bool:
    """Whether another Matroska stands behind the segment of the first, or may: recorders do not say how long it is."""
    if not container.format.name.startswith("matroska"):
        return False
    end = _end_of_segment(file)
    return end == 0 or bytes_at(file, end, len(_MATROSKA)) == _MATROSKA


def is_avi_of_several(container: InputContainer, file: IO[bytes]) -> bool:
    """Whether another AVI stands behind the first. Of one larger than a gigabyte the rest is "AVIX" (OpenDML 1.02)."""
    if container.format.name != "avi":
        return False
    head = bytes_at(file, 8 + int.from_bytes(bytes_at(file, 4, 4), "little"), 12)
    return head[:4] == b"RIFF" and head[8:] == b"AVI "


def clock_begins_again(file: IO[bytes], container: str) -> bool:
    """Whether the clock of a large recording goes back on the way, by its readings at POSITIONS places.

    That of an MPEG stream also begins again by itself after 26.5 hours, which does not count.
    """
    read = _CLOCKS.get(container)
    if read is None:
        return False
    size, last = size_of(file), None
    for place in range(POSITIONS):
        now = read(bytes_at(file, size * place // POSITIONS, BLOCK))
        if now is None:
            continue
        if last is not None and last - MOST_OF_A_CLOCK / 2 < now < last - BACK:
            return True
        last = now
    return False


def _clock_of_flv(data: bytes) -> float | None:
    """The time in seconds of the first tag that is whole in these bytes."""
    for tag in _FLV_TAG.finditer(data):
        length = int.from_bytes(tag[1]) + _FLV_TAG_BYTES
        end = tag.start() + length
        if data[end : end + 4] == length.to_bytes(4):
            return int.from_bytes(tag[3] + tag[2]) / 1000
    return None


def _clock_of_matroska(data: bytes) -> float | None:
    """The time in seconds of the first cluster in these bytes, in a file whose unit is the usual millisecond."""
    found = _CLUSTER.search(data)
    if found is None:
        return None
    return int.from_bytes(data[found.end() : found.end() + found[1][0] - 0x80]) / 1000


def _last_clock_of_matroska(file: IO[bytes]) -> float | None:
    """The time in seconds of the last cluster, if it is near the file's end."""
    unit = _TIMESTAMP_SCALE.search(bytes_at(file, 0, 4096))
    *_, last = itertools.chain((None,), _CLUSTER.finditer(bytes_at(file, max(size_of(file) - BLOCK, 0), BLOCK)))
    if last is None:
        return None
    time = int.from_bytes(last.string[last.end() : last.end() + last[1][0] - 0x80])
    return time * (int.from_bytes(unit[1] or unit[2] or unit[3]) if unit else 1_000_000) / 1_000_000_000


def _clock_of_mpeg(data: bytes) -> float | None:
    """The first reading, in seconds, of a transport stream's clock (PCR) or of a program stream's (SCR)."""
    found = data.find(b"\0\0\1\xba")
    if 0 <= found < len(data) - 10 and data[found + 4] >> 6 == 1:  # ISO 13818-1, 2.5.3.3
        bits = int.from_bytes(data[found + 4 : found + 10])
        return ((bits >> 43 & 7) << 30 | (bits >> 27 & 0x7FFF) << 15 | bits >> 11 & 0x7FFF) / _CLOCK_HERTZ
    for length in (188, 192):
        start = next(
            (
                at
                for at in range(length)
                if len(data) > 8 * length and set(data[at : at + 8 * length : length]) == {0x47}
            ),
            None,
        )
        if start is None:
            continue
        clocks: dict[int, int] = {}
        for at in range(start, len(data) - 12, length):
            # An adaptation field of 7 bytes or more that has the flag of a clock (2.4.3.4).
            if data[at] == 0x47 and data[at + 3] & 0x20 and data[at + 4] >= 7 and data[at + 5] & 0x10:
                pid = int.from_bytes(data[at + 1 : at + 3]) & 0x1FFF
                clocks.setdefault(pid, int.from_bytes(data[at + 6 : at + 11]) >> 7)
        if clocks:
            return clocks[min(clocks)] / _CLOCK_HERTZ
    return None


def _clock_of_flac(data: bytes) -> float | None:
    """The time of the first frame in these bytes that another follows. Only its order matters: its seconds are those of
    44,100 samples, and of frames of 4,096.
    """
    before: dict[int, int] = {}
    for found in _FLAC_FRAME.finditer(data):
        head = data[found.start() : found.start() + 16]
        length = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()
        number = head[4] if length == 1 else head[4] & 0x7F >> length
        for byte in head[5 : 4 + length]:
            number = number << 6 | byte & 0x3F
        end = 4 + length + {6: 1, 7: 2}.get(head[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 0xF, 0)
        if len(head) > end and _crc8(head[:end]) == head[end]:
            counts_samples = head[1] & 1
            most = MOST_SAMPLES_OF_A_FRAME if counts_samples else 1
            alike = (each for each, kind in before.items() if kind == counts_samples)
            first = next((each for each in alike if 0 < number - each <= most), None)
            if first is not None:
                return first * (1 if counts_samples else 4_096) / 44_100
            before[number] = counts_samples
    return None


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value << 1 ^ (0x107 if value & 0x80 else 0)
    return value


_CLOCKS: dict[str, Callable[[bytes], float | None]] = {
    "flac": _clock_of_flac,
    "flv": _clock_of_flv,
    "matroska,webm": _clock_of_matroska,
    "mpeg": _clock_of_mpeg,
    "mpegts": _clock_of_mpeg,
}


def _varies(codec: str) -> bool:
    return not codec.startswith(("pcm_", "adpcm_", "gsm"))


def _counts_its_frames(file: IO[bytes]) -> bool:
    """Whether an MP3's first frame says how many follow: Xing's header, LAME's (Info) or Fraunhofer's (VBRI).

    It counts only where the bytes that it says are there, too: a file may be cut, or another one may follow. And where
    the frames are about as many as it says: editors keep the number of what they cut from.
    """
    at = 0
    while (head := bytes_at(file, at, 10))[:3] == b"ID3" and len(head) == 10:
        at += length_of_tag(head)
    head = bytes_at(file, at, 4096)
    if int.from_bytes(head[:2]) & _SYNC != _SYNC:
        return False  # something stands before the frame, and FFmpeg does not read its header
    for mark, numbers in ((b"Xing", ">4x3I"), (b"Info", ">4x3I"), (b"VBRI", ">10x2I")):
        found = head.find(mark)
        if found >= 0 and len(head) >= found + struct.calcsize(numbers):
            *flags, first, second = struct.unpack_from(numbers, head, found)
            frames, length = (first, second) if flags else (second, first)
            if flags and flags[0] & _HAS_FRAMES_AND_BYTES != _HAS_FRAMES_AND_BYTES:
                return False
            if abs(size_of(file) - at - length) > max(MOST_BYTES_BEHIND_MP3, length // 100):
                return False
            return _has_as_many_frames(file, at, frames)
    return False


def _has_as_many_frames(file: IO[bytes], start: int, stated: int) -> bool:
    """Whether an MP3 may have so many frames from `start` on, by their number in pieces of it."""
    size = size_of(file)
    read = frames = 0
    for place in range(PIECES):
        for begins, ends in _frames_of_mp3(bytes_at(file, start + (size - start) * place // PIECES, PIECE)):
            frames += 1
            read += ends - begins
    share = MOST_AMISS_OF_PIECES if size > MOST_BYTES_COUNTED else LEAST_AMISS_OF_PIECES
    found = (size - start) * frames / max(read, 1)
    return abs(stated - found) <= max(share * found, PIECES)


def _frames_of_mp3(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the frames that follow each other in these bytes begin and end."""
    at, last = 0, len(data) - 4
    while 0 <= at <= last:
        length = _length_of_frame(data, at)
        if length and at + length <= last and _length_of_frame(data, at + length):
            yield at, at + length
        at = at + length if length else data.find(b"\xff", at + 1)


def _length_of_frame(data: bytes, at: int) -> int:
    """Bytes of the frame of MPEG audio, layer III, that begins here; 0 where none does (ISO 11172-3, 2.4.2.3)."""
    sync, kind, rates = data[at], data[at + 1], data[at + 2]
    version, bits, hertz = kind >> 3 & 3, rates >> 4, rates >> 2 & 3
    if sync != 0xFF or kind & 0xE6 != 0xE2 or version == 1 or bits in (0, 15) or hertz == 3:
        return 0
    is_first = version == 3
    rate = (44_100, 48_000, 32_000)[hertz] >> (0 if is_first else 1 if version == 2 else 2)
    return (144_000 if is_first else 72_000) * _KILOBITS[is_first][bits - 1] // rate + (rates >> 1 & 1)


def is_ogg_of_several(container: InputContainer, file: IO[bytes]) -> bool:
    """Whether an Ogg is recordings one behind the other, as of web radios (RFC 3533, 3), or begins late.

    Then the stream that its last page belongs to does not begin at its start.
    """
    if container.format.name != "ogg":
        return False
    start, serials, at = bytes_at(file, 0, OGG_BYTES), set(), 0
    while start[at : at + 6] == _OGG_BEGINS and len(start) > at + 27:
        serials.add(start[at + 14 : at + 18])
        segments = start[at + 26]
        at += 27 + segments + sum(start[at + 27 : at + 27 + segments])
    end = bytes_at(file, max(size_of(file) - OGG_BYTES, at), OGG_BYTES)
    last = end.rfind(b"OggS")
    ends_another = last >= 0 and end[last + 14 : last + 18] not in serials
    return start_of(container) > BACK or ends_another or _OGG_BEGINS in end


def bytes_at(file: IO[bytes], position: int, length: int) -> bytes:
    """Bytes of the file, whose position stays."""
    before = file.tell()
    file.seek(position)
    found = file.read(length)
    file.seek(before)
    return found


def size_of(file: IO[bytes]) -> int:
    """Bytes of the file, whose position stays."""
    before = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(before)
    return size


def counted_duration(container: InputContainer) -> tuple[float | None, bool]:
    """Seconds from the first packet to the end of the last, and whether timestamps begin again on the way.

    None if there are too many to count.
    """
    first, last = math.inf, -math.inf
    streams = {stream.index: GoingOn(stream) for stream in (*films_of(container), *container.streams.audio)}
    for packets, packet in enumerate(until_broken(container), start=1):
        if packets > MOST_PACKETS_COUNTED:
            return None, False
        stream = streams.get(packet.stream_index)
        if stream is not None and packet.pts is not None:
            begins, ends = stream.times(packet)
            if container.format.name == "loas" and last < 0:  # its first packets may have no time
                begins -= (packets - 1) * (ends - begins)
            first, last = min(first, begins), max(last, ends)
    return last - first if streams and last >= first else None, any(stream.begins_again for stream in streams.values())
