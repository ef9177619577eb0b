"""The rows of real speech: whole transcriptions against faster-whisper's own default call on the same file.

Five sentences that a volunteer read for LibriVox are repeated with pauses. The model is told the language, and both use
the same number of threads.
"""

import hashlib
import os
import tempfile
from pathlib import Path

from faster_whisper import WhisperModel
from tests.fixtures import librivox
from tests.tools import speech as fetched

from bench.clients import name_in
from bench.measure import FULL, SPEECH, Amount, Contender, Effort, Goal, Row, compare
from bench.parts import Parts
from bench.resources import MIB, Resources
from bench.worker import transcriptions, worker
from media_workers.settings import WhisperSettings

MODELS = ("tiny.en", "base")
TIMES = 24
"""The sentences once take 27.7 s."""
AN_HOUR = 130
GOAL = Goal(must=2, aim=2.4)
MEMORY = Goal(must=150, aim=100)


async def speech(parts: Parts, effort: Effort) -> list[Row | Amount]:
    try:
        said = librivox.sentences(fetched.provide("librivox"))
        models = {name: fetched.provide(name) for name in MODELS}
    except fetched.NotFetched as why:
        parts.without(str(why))
        return []
    rows: list[Row | Amount] = []
    for name, model in models.items():
        rows += await _against_bare(parts, said, name, model, 1 if effort is not FULL else 2)
        if effort is FULL:
            rows.append(await _an_hour(parts, said, name, model))
    return rows


async def _against_bare(
    parts: Parts, said: list[librivox.Sentence], name: str, folder: Path, turns: int
) -> list[Row | Amount]:
    content, text, _ = librivox.joined(said, TIMES)
    seconds = len(content) / 32_000
    settings = WhisperSettings(model=str(folder), local_files_only=True)
    model = WhisperModel(str(folder), device="cpu", compute_type=settings.compute_type, local_files_only=True)
    heard: dict[str, str] = {}
    with tempfile.NamedTemporaryFile(suffix=".wav", dir=parts.folder) as file:
        file.write(content)
        file.flush()
        payload = _uploaded(parts, content)
        async with worker(parts.tenant) as one:
            task = transcriptions(settings)

            async def ours() -> float:
                await one.drain(task)
                return seconds

            async def check() -> None:
                await one.check(1)
                heard["ours"] = await one.transcript()

            async def queue_again() -> None:
                await one.queue_transcription(payload)

            def bare() -> float:
                segments, _ = model.transcribe(file.name, language="en")
                heard["bare"] = " ".join(segment.text for segment in segments)
                return seconds

            seen = await compare(
                turns,
                {
                    "ours": Contender(ours, one.used, check, queue_again),
                    "bare": Contender(bare, Resources.of(os.getpid())),
                },
            )
    errors = {who: librivox.word_error_rate(text, what) for who, what in heard.items()}
    legend = "faster-whisper's default call; ours is from the queue to the transcript. RSS is above the loaded model"
    return [
        Row(f"{name}: {seconds:.0f} s read aloud", SPEECH, seen["ours"], "bare", seen["bare"], legend, GOAL),
        Amount(f"{name}: words wrong, of 100", 100 * errors["ours"], "", "spelling of numbers and names counts", None),
        Amount(f"{name}: words wrong, of 100, bare", 100 * errors["bare"], "", "", None),
    ]


async def _an_hour(parts: Parts, said: list[librivox.Sentence], name: str, folder: Path) -> Amount:
    content, _, _ = librivox.joined(said, AN_HOUR)
    payload = _uploaded(parts, content)
    task = transcriptions(WhisperSettings(model=str(folder), local_files_only=True))
    short, _, _ = librivox.joined(said, 1)
    async with worker(parts.tenant) as one:
        await one.queue_transcription(_uploaded(parts, short))  # which loads the model
        await one.drain(task)
        await one.queue_transcription(payload)
        one.used.reset()
        await one.drain(task)
        grown = one.used.peak_growth()
    what = f"{name}: an hour read aloud, memory above the loaded model"
    return Amount(what, grown / MIB, "MiB", "peak RSS of the worker and its child", MEMORY)


def _uploaded(parts: Parts, content: bytes) -> dict[str, str]:
    """What a job that transcribes it holds."""
    with parts.tenant.client() as client:
        media_id = name_in(client.upload([content], len(content)))
    return {"sha256": hashlib.sha256(content).hexdigest(), "media_id": media_id, "language": "en"}
