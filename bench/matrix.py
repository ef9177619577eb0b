"""The table of formats: one sentence in every container, codec, layout and sample rate that can be written here.

Each file is looked at by its right name and by a wrong one, and decoded from its beginning and from its middle; what
was decoded is compared with the recording. Workers transcribe some of the files: of each container, codec and layout
one, with `--quick` of each container and codec. Layouts and sample rates take turns there.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from av.codec import Codec
from tests.fixtures import librivox, sound_formats
from tests.fixtures.sound_formats import CONTAINERS, SAMPLE_RATE, Cell, Named, NotWritten, Samples
from tests.tools import speech as fetched

from bench.clients import name_in
from bench.measure import FULL, Amount, Effort, Goal, Listing, aligned
from bench.parts import Parts
from bench.worker import Task, Worker, transcriptions, worker
from media_core.decoding import BytesSource, DecodingFailed
from media_core.decoding.containers import AUDIO_CODECS
from media_core.decoding.pool import DecodingPool
from media_core.examination.examination import Examination
from media_core.examination.media_types import transcribable
from media_core.examination.sniffing import HEAD
from media_workers.settings import WhisperSettings

MODEL = "tiny.en"
SENTENCE = 3
"""Six seconds. The model writes 18 of its 19 words, with and without the telephone's bandwidth."""
NARROW = 8_000
QUICK_RATES = (NARROW, 48_000)
MIDDLE = 2.25
"""Seconds."""
LEAST_LIKE = 0.9
VOICE_CODECS = frozenset(("libopencore_amrnb",))
"""Codecs that keep how a voice sounds and not its waveform. Their likeness is shown and not judged."""
MOST_LATE = 0.15
"""Seconds. Where a format does not say how much silence its encoder put first, that is heard: 0.14 s of 8 kHz MP3."""
MOST_APART = 0.05
"""Seconds by which the same may be found later from the middle than from the beginning. A frame of AC-3 has 0.032."""
MOST_AMISS = 0.3
"""Seconds by which a duration may differ."""
MARGIN = 0.1
"""Of the words: so many more than of the plain WAV may be wrong."""
NARROW_MARGIN = 0.2
"""The same at 8 kHz. LAME's default there is 8 kbit/s, with which the model loses three words in 19."""
NONE = Goal(must=0, aim=0)


@dataclass
class Kind:
    """A codec in a container."""

    cells: list[Cell] = field(default_factory=list)
    likeness: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    wrong: list[tuple[float, Cell]] = field(default_factory=list)
    """Of the words, where it was transcribed."""


@dataclass
class Seen:
    kinds: list[Kind] = field(default_factory=list)
    refused: int = 0
    faults: list[str] = field(default_factory=list)


async def matrix(parts: Parts, effort: Effort) -> list[Amount | Listing]:
    try:
        said = librivox.sentences(fetched.provide("librivox"))[SENTENCE]
        folder = fetched.provide(MODEL)
    except fetched.NotFetched as why:
        parts.without(str(why))
        return []
    task = transcriptions(WhisperSettings(model=str(folder), local_files_only=True))
    seen = Seen()
    async with DecodingPool(processes=1) as pool, worker(parts.tenant) as one:
        plain = Cell(CONTAINERS["wav"], "pcm_s16le", "mono", SAMPLE_RATE, Named("a", ""))
        usual = await _wrong(parts, one, task, plain.written(said.samples), said.text)
        cells = sound_formats.cells(rates=sound_formats.RATES if effort is FULL else QUICK_RATES)
        for _, each in groupby(cells, key=lambda cell: (cell.container.name, cell.codec)):
            kind = Kind()
            for cell in each:
                try:
                    data = cell.written(said.samples)
                except NotWritten:
                    seen.refused += 1
                    continue
                kind.cells.append(cell)
                seen.faults += [f"{cell}: {fault}" for fault in await _faults(pool, cell, data, said, kind)]
            for cell in _chosen(kind, len(seen.kinds), effort):
                wrong = await _wrong(parts, one, task, cell.written(said.samples), said.text)
                kind.wrong.append((wrong, cell))
                if wrong > usual + (NARROW_MARGIN if cell.rate == NARROW else MARGIN):
                    seen.faults.append(f"{cell}: {100 * wrong:.0f} words wrong of 100")
            if kind.cells:
                seen.kinds.append(kind)
    return _told(seen, usual)


def _chosen(kind: Kind, number: int, effort: Effort) -> Iterator[Cell]:
    """Those that are transcribed."""
    groups = [list(cells) for _, cells in groupby(kind.cells, key=lambda cell: cell.layout)]
    if effort is not FULL and groups:
        groups = [groups[number % len(groups)]]
    for at, cells in enumerate(groups):
        yield cells[(number + at) % len(cells)]


async def _faults(pool: DecodingPool, cell: Cell, data: bytes, said: librivox.Sentence, kind: Kind) -> list[str]:
    """A sentence each."""
    faults = []
    types = []
    for named in (cell.container.right, cell.wrong):
        examined = await Examination(pool).examine(BytesSource(data), data[:HEAD], named.filename, named.claimed)
        facts = examined.facts
        types.append(facts.mime_type)
        if not transcribable(facts.mime_type):
            faults.append(f"as {named.filename} it is {facts.mime_type}, which is not transcribed")
        if facts.duration is not None and abs(facts.duration - said.seconds) > MOST_AMISS:
            faults.append(f"its length is said to be {facts.duration:.1f} s")
    if len(set(types)) > 1:
        faults.append(f"it is {types[0]}, and as {cell.wrong.filename} {types[1]}")
    try:
        whole = await _decoded(pool, data, 0.0)
        later = await _decoded(pool, data, MIDDLE)
    except DecodingFailed as error:
        return [*faults, f"it is not decoded: {error}"]
    like, late = sound_formats.likeness(whole, said.samples, cell.rate)
    alike, apart = sound_formats.likeness(later, whole[round(MIDDLE * SAMPLE_RATE) :], SAMPLE_RATE)
    kind.likeness.append(like)
    kind.late.append(late)
    if like < LEAST_LIKE and cell.codec not in VOICE_CODECS:
        faults.append(f"it is another sound, {like:.2f} like the recording")
    if abs(late) > MOST_LATE:
        faults.append(f"it is {late:.2f} s late")
    if alike < LEAST_LIKE or abs(apart) > MOST_APART:
        faults.append(f"from its middle it is another sound, {alike:.2f} like what it was, and {apart:.2f} s later")
    return faults


async def _decoded(pool: DecodingPool, data: bytes, start: float) -> Samples:
    """From there to its end."""
    window = await pool.run("audio_window", BytesSource(data), start=start, seconds=60.0)
    return np.frombuffer(window, np.int16)


async def _wrong(parts: Parts, one: Worker, task: Task, data: bytes, text: str) -> float:
    """Of the words, as a worker writes them."""
    with parts.tenant.client() as client:
        media_id = name_in(client.upload([data], len(data)))
    await one.queue_transcription({"sha256": hashlib.sha256(data).hexdigest(), "media_id": media_id, "language": "en"})
    await one.drain(task)
    await one.check(1)
    heard = await one.transcript()
    parts.tenant.delete([media_id])
    return librivox.word_error_rate(text, heard)


def _told(seen: Seen, usual: float) -> list[Amount | Listing]:
    cells = sum(len(kind.cells) for kind in seen.kinds)
    heard = sum(len(kind.wrong) for kind in seen.kinds)
    worst = max(wrong for kind in seen.kinds for wrong, _ in kind.wrong)
    legend = (
        f"one sentence in {len(seen.kinds)} pairs of container and codec, three layouts and several sample rates; "
        f"{seen.refused} combinations are not written, or not read back by FFmpeg itself. Read here and written by no "
        f"encoder here: {', '.join(_unwritten())}"
    )
    rows = [
        Amount("formats, files", cells, "", legend, None),
        Amount("formats, files transcribed", heard, "", f"by {MODEL}; all are compared with the recording", None),
        Amount("formats, words wrong of 100 in the plain WAV", 100 * usual, "", "mono, 16 kHz", None),
        Amount("formats, words wrong of 100 in the worst file", 100 * worst, "", "the table says which", None),
        Amount("formats, faults", len(seen.faults), "", _judged(), NONE),
    ]
    return [*rows, Listing(_table(seen.kinds)), *([Listing(_faulty(seen.faults))] if seen.faults else [])]


def _judged() -> str:
    return (
        f"a type that is not transcribed, or that the name decides; a length wrong by {MOST_AMISS} s; a likeness below "
        f"{LEAST_LIKE}; {MOST_LATE} s late; another sound from its middle; or {100 * MARGIN:.0f} more wrong words "
        f"of 100 than in the plain WAV, at 8 kHz {100 * NARROW_MARGIN:.0f}"
    )


def _table(kinds: Sequence[Kind]) -> str:
    head = ("container", "codec", "files", "least like", "late by up to", "heard", "words wrong", "where")
    return aligned([head, *(_line(kind) for kind in kinds)], left=(0, 1, 7))


def _line(kind: Kind) -> tuple[str, ...]:
    first = kind.cells[0]
    wrong, where = max(kind.wrong, key=lambda each: each[0])
    return (
        first.container.name,
        first.codec,
        str(len(kind.cells)),
        f"{min(kind.likeness):.3f}" if kind.likeness else "none",
        f"{max(kind.late, key=abs):.3f} s" if kind.late else "none",
        str(len(kind.wrong)),
        f"{100 * wrong:.0f} %",
        f"{where.layout}, {where.rate / 1000:g} kHz",
    )


def _faulty(faults: Sequence[str]) -> str:
    return "\n".join(["Faults:", "", *(f"- {fault}" for fault in faults)])


def _unwritten() -> list[str]:
    """Codecs that are read here and that no encoder here writes."""
    written = {Codec(name, "w").canonical_name for name in sound_formats.CODECS}
    return sorted({Codec(name, "r").canonical_name for name in AUDIO_CODECS.split(",")} - written - {"aac_latm"})
