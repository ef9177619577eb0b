"""libmagic asked faster gives the same answers."""

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from media_core import sniffing
from media_core.magic_database import without_constants

ROOT = Path(__file__).parents[2]
ENTRY = 376
CHANCE = random.Random(7)


def _constants() -> Iterator[tuple[int, bytes]]:
    """What libmagic's tests compare, and where."""
    database = sniffing._DATABASE.read_bytes()
    for begin in range(ENTRY, len(database), ENTRY):
        level, offset, value = struct.unpack_from("=H10xi16x8s", database, begin)
        if level == 0 and 0 <= offset < sniffing.HEAD - 8:
            yield offset, value


def _planted() -> Iterator[bytes]:
    for offset, value in CHANCE.sample(list(_constants()), 150):
        for length in (1, 2, 4, 8):
            data = bytearray(CHANCE.randbytes(sniffing.HEAD))
            data[offset : offset + length] = value[:length]
            yield bytes(data)
            yield bytes(data[: offset + length])


def _files() -> Iterator[bytes]:
    for folder in ("samples", "tests/fixtures"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    yield file.read(sniffing.HEAD)


def _texts() -> Iterator[bytes]:
    for text in ("<!DOCTYPE svg>\n", "#!/bin/sh\nexit 1\n", "BEGIN:VCALENDAR\n", "just words\n"):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037"):
            yield (text * 40).encode(encoding)


def test_a_file_is_what_all_tests_say_that_it_is() -> None:
    chance = [CHANCE.randbytes(size) for size in (0, 1, 2, 3, 5, 17, 4095, *[4096] * 500)]
    zeros = [bytes(size) for size in (1, 4, 100, 4096)]
    found = set()
    for data in (*chance, *zeros, *_texts(), *_files(), *_planted()):
        told = sniffing._magic.from_buffer(data)
        assert told == sniffing._magic.whole.from_buffer(data), data[:64]
        found.add(told)
    assert len(found) > 20


def test_most_of_what_is_nothing_known_is_not_asked_of_all_tests() -> None:
    assert sniffing._magic.rest is not None, "libmagic's database is in another format: see struct magic in its file.h"
    looked_up = sniffing._magic._constants
    assert sum(looked_up.any_in(CHANCE.randbytes(sniffing.HEAD)) for _ in range(500)) < 100


@pytest.mark.parametrize("change", [(4, 17), (8, 1), (0, 0)])
def test_a_database_in_another_format_is_left_whole(change: tuple[int, int]) -> None:
    database = bytearray(sniffing._DATABASE.read_bytes())
    assert without_constants(bytes(database), sniffing.HEAD) is not None
    struct.pack_into("=I", database, *change)
    assert without_constants(bytes(database), sniffing.HEAD) is None
