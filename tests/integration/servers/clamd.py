"""A real clamd for tests: the production configuration with small limits, and signatures for two harmless contents."""

import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from media_operator.local.clamd import HOW_TO_INSTALL, ClamdAddress, EmbeddedClamd, ScanLimits
from media_workers.settings import ClamdSettings
from tests.integration.tenancy import MIB

LIMITS = ScanLimits(content_mib=8, files=100, recursion=5, threads=4)
LIMIT = LIMITS.content_mib * MIB
MARKER = b"a harmless text that the tests' own signature finds"
RULES = (f"Test.Marker:0:*:{MARKER.hex()}",)


@pytest.fixture(scope="session")
async def clamd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ClamdAddress]:
    if EmbeddedClamd.find() is None:
        pytest.skip(HOW_TO_INSTALL)
    server = EmbeddedClamd(limits=LIMITS, rules=RULES, official=None, mirror=None)
    yield await server.start(tmp_path_factory.mktemp("clamd"))
    await server.stop()


def settings_for(clamd: ClamdAddress, **changes: float) -> ClamdSettings:
    return ClamdSettings(host=clamd.host, port=clamd.port, connect_timeout=60).model_copy(update=changes)


async def chunks(*data: bytes) -> AsyncGenerator[bytes]:
    """Chunks as an object store's stream yields them, of at most 1 MiB."""
    for part in data:
        for start in range(0, len(part), MIB):
            yield part[start : start + MIB]


class _Pipe(io.BytesIO):
    """An output without seeking, so that the archiver cannot go back to fill sizes in."""

    def tell(self) -> int:
        raise OSError("a pipe has no position")


def zipped(*members: bytes, method: int = zipfile.ZIP_DEFLATED, zip64: bool = False, streamed: bool = False) -> bytes:
    if zip64 and not streamed:
        return _with_large_sizes(*members)
    buffer = _Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for number, content in enumerate(members):
            with archive.open(f"{number}.bin", "w", force_zip64=zip64) as member:
                member.write(content)
    return buffer.getvalue()


def _with_large_sizes(*members: bytes) -> bytes:
    """A ZIP whose members have their sizes in the field for more than 4 GiB (APPNOTE 4.5.3).

    zipfile writes them wrongly before Python 3.11.4.
    """
    large = 0xFFFFFFFF
    entries = directory = b""
    for number, content in enumerate(members):
        name, packed = f"{number}.bin".encode(), zlib.compress(content, wbits=-15)
        told = struct.pack("<HHHHHI", 45, 0, zipfile.ZIP_DEFLATED, 0, 0x21, zlib.crc32(content))
        place = struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, len(entries))
        directory += (
            b"PK\1\2" + struct.pack("<H", 45) + told + struct.pack("<II", len(packed), len(content)) + place + name
        )
        sizes = struct.pack("<HHQQ", 1, 16, len(content), len(packed))
        entries += b"PK\3\4" + told + struct.pack("<IIHH", large, large, len(name), len(sizes)) + name + sizes + packed
    count = len(members)
    return (
        entries + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(entries), 0)
    )


def nested(content: bytes, levels: int) -> bytes:
    for _ in range(levels):
        content = zipped(content)
    return content


def tar_gz(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("inside/file.bin")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=1)


def encrypted_zip(content: bytes, password: bytes = b"secret") -> bytes:
    """A ZIP whose only member is encrypted with the traditional PKWARE cipher (APPNOTE.TXT 6.1)."""
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte: int) -> None:
        keys[0] = _crc(keys[0], byte)
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = _crc(keys[2], keys[1] >> 24)

    def encrypt(byte: int) -> int:
        stream = (keys[2] | 2) & 0xFFFF
        update(byte)
        return byte ^ ((stream * (stream ^ 1)) >> 8 & 0xFF)

    for byte in password:
        update(byte)
    crc = zlib.crc32(content)
    header = bytes(11) + bytes([crc >> 24])  # its last byte lets a reader check the password
    body = bytes(map(encrypt, header + content))

    archive = bytearray(zipped(content, method=zipfile.ZIP_STORED))
    name_end = 30 + len("0.bin")
    archive[name_end : name_end + len(content)] = body
    for record, flags, size in ((0, 6, 18), (archive.rindex(b"PK\x01\x02"), 8, 20)):
        archive[record + flags] |= 1
        archive[record + size : record + size + 4] = len(body).to_bytes(4, "little")
    end = archive.rindex(b"PK\x05\x06")
    archive[end + 16 : end + 20] = archive.rindex(b"PK\x01\x02").to_bytes(4, "little")
    return bytes(archive)


def _crc(crc: int, byte: int) -> int:
    return zlib.crc32(bytes([byte]), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
