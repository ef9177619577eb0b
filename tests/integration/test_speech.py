"""Transcripts of real voices by real Whisper models, which `make speech` fetches."""

from pathlib import Path
from typing import Any

import pytest
from faster_whisper import WhisperModel
from faster_whisper.audio import decode_audio

from media_core.database import Database
from media_core.decoding import DecodingPool
from media_core.library import Library
from media_core.policy import PolicyReader
from media_core.queue import Queue
from media_core.settings import TranscriptionSettings
from media_core.store.folder import FolderStore
from media_workers.drain import Work
from media_workers.settings import WhisperSettings
from media_workers.whisper import Whisper
from tests.fixtures import librivox
from tests.integration.tenancy import TenantDatabase
from tests.integration.test_transcribe import Tenant
from tests.tools import speech

TIMES = 3
"""83 seconds: more than the model hears together."""


def fetched(name: str) -> Path:
    found = speech.folder(name)
    if not found.exists():
        pytest.skip(f"{name} is not here: `make speech` fetches it, or says why it can't")
    return found


@pytest.fixture(scope="module")
def said() -> list[librivox.Sentence]:
    return librivox.sentences(fetched("librivox"))


@pytest.fixture(scope="module")
def english() -> Whisper:
    return Whisper(WhisperSettings(model=str(fetched("tiny.en")), cpu_threads=1, local_files_only=True))


@pytest.fixture
def tenant(
    tenant_database: TenantDatabase,
    database: Database,
    folder_store: FolderStore,
    library: Library,
    decoding_pool: DecodingPool,
    english: Whisper,
) -> Tenant:
    work = Work(database, Queue(database), library, folder_store, decoding_pool, PolicyReader(database))
    return Tenant(tenant_database, work, english, TranscriptionSettings())


@pytest.fixture(scope="module")
def bare() -> WhisperModel:
    return WhisperModel(str(fetched("tiny.en")), device="cpu", compute_type="int8", cpu_threads=1)


async def test_a_volunteers_reading_is_written_down_as_well_as_by_faster_whisper_itself(
    tenant: Tenant, said: list[librivox.Sentence], bare: WhisperModel, tmp_path: Path
) -> None:
    recording, text, starts = librivox.joined(said, TIMES)
    job_id = await tenant.submit(await tenant.keep(recording), word_timestamps=True)
    steps = await tenant.drain_with_a_worker_for_each_stretch(job_id)
    result: dict[str, Any] = (await tenant.job(job_id)).result
    assert steps > 2
    errors = librivox.word_error_rate(text, result["transcript"])
    (tmp_path / "read.wav").write_bytes(recording)
    theirs, _ = bare.transcribe(decode_audio(str(tmp_path / "read.wav")))
    assert errors <= max(librivox.word_error_rate(text, " ".join(segment.text for segment in theirs)), 0.03)
    assert (result["language"], result["duration"]) == ("en", pytest.approx(len(recording) / 32_000, abs=0.1))

    # Each sentence is a segment, and begins when it is read.
    segments = result["segments"]
    assert len(segments) == len(starts)
    for segment, start, sentence in zip(segments, starts, said * TIMES, strict=True):
        assert segment["start"] == pytest.approx(start, abs=0.6)
        assert segment["end"] == pytest.approx(start + sentence.seconds, abs=0.8)
        assert librivox.word_error_rate(sentence.text, segment["text"]) < 0.2
        assert segment["text"][0].isupper()
        assert segment["text"][-1] == "."
        words = segment["words"]
        assert "".join(word["word"] for word in words) == segment["text"].replace(" ", "")
        assert all(word["start"] <= word["end"] for word in words)
        assert segment["start"] == words[0]["start"]
