"""Transcription with the real faster-whisper, the real decoding children, the real queue and store."""

import asyncio
import difflib
import functools
import hashlib
import io
import itertools
import json
import os
import struct
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from faster_whisper.tokenizer import _LANGUAGE_CODES

from media_core.database import Database
from media_core.decoding import DecodingFailed, Source
from media_core.decoding.pool import DecodingPool
from media_core.ids import new_media_id
from media_core.items.library import Library
from media_core.jobs.queue import Lease, Queue, cancel, enqueue
from media_core.policy import PolicyReader
from media_core.settings import TranscriptionSettings
from media_core.store.folder import FolderStore
from media_core.store.object_keys import content_key
from media_core.transcripts import formats, passages
from media_workers.drain import Drain, Work
from media_workers.settings import DrainSettings, WhisperSettings
from media_workers.speech.chunks import SAMPLE_RATE
from media_workers.speech.transcribe import Transcriber
from media_workers.speech.whisper import Model, Whisper
from tests.fixtures import media
from tests.integration.tenancy import TenantDatabase
from tests.preloaded import WORKERS, Program

FIXTURE = Path(__file__).parents[2] / "fixtures" / "whisper-tiny-words"
MODEL = FIXTURE / "model"
SAMPLES = FIXTURE / "samples"
SPOKEN: dict[str, dict[str, Any]] = json.loads((SAMPLES / "transcripts.json").read_text())
CLEAN = [
    "greeting_en.wav",
    "greeting_en_female.wav",
    "digits_en.wav",
    "two_phrases_en.wav",
    "gruss_de.wav",
    "zahlen_de.wav",
]
CHUNK_SECONDS = 12.0
"""The fixture's model learned from short recordings: of full 30 seconds it leaves phrases out."""
LEASE_SECONDS = 60.0
_HEARD: dict[tuple[Any, ...], dict[str, Any]] = {}


@pytest.fixture(scope="session")
def whisper() -> Iterator[Whisper]:
    settings = WhisperSettings(model=str(MODEL), chunk_seconds=CHUNK_SECONDS, cpu_threads=1, local_files_only=True)
    with pytest.MonkeyPatch.context() as patch:
        # A worker gives memory back to the system at once. In this process, which has much more, a tenth of the tests'
        # CPU time would go into that.
        patch.setattr("media_workers.speech.whisper._IS_GLIBC", False)
        yield Whisper(settings)


@dataclass
class Tenant:
    """One tenant's stored recordings and transcription jobs."""

    rows: TenantDatabase
    work: Work
    whisper: Whisper
    limits: TranscriptionSettings

    async def keep(self, data: bytes, scan_status: str = "clean") -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        media_id = new_media_id()
        await self.work.store.put(content_key(self.work.library.tenant_id, sha256), data)
        async with self.work.database.transaction() as tx:
            await tx.execute(
                "INSERT INTO blob (sha256, size, mime_type, scan_status)"
                " VALUES (%(sha256)s, %(size)s, 'audio/wav', %(status)s) ON CONFLICT (sha256) DO NOTHING",
                {"sha256": sha256, "size": len(data), "status": scan_status},
            )
            await tx.execute(
                "INSERT INTO media (media_id, sha256, filename, uploaded_by, tenant_scope)"
                " VALUES (%(media_id)s, %(sha256)s, 'talk', 'anna', false)",
                {"media_id": media_id, "sha256": sha256},
            )
        return media_id

    async def submit(self, media_id: str, **options: Any) -> str:
        async with self.work.database.transaction() as tx:
            sha256 = await tx.value("SELECT sha256 FROM media WHERE media_id = %(id)s", {"id": media_id})
            payload = {"sha256": sha256, "media_id": media_id, "language": None, **options}
            return await enqueue(tx, "transcribe", payload, owner="anna", media_id=media_id)

    async def transcribe(self, data: bytes, **options: Any) -> dict[str, Any]:
        """Transcribes an item. Returns the completed job's result."""
        job_id = await self.submit(await self.keep(data), **options)
        await self.drain()
        job = await self.job(job_id)
        assert job.status == "completed", (job.status, job.error_code, job.error_detail)
        result: dict[str, Any] = job.result
        return result

    async def whole(self, data: bytes, **options: Any) -> dict[str, Any]:
        """What one worker makes of a recording, heard once for all tests."""
        heard = (data, *sorted(options.items()))
        if heard not in _HEARD:
            _HEARD[heard] = await self.transcribe(data, **options)
        return _HEARD[heard]

    async def refusal(self, data: bytes, scan_status: str = "clean", **options: Any) -> tuple[str, str]:
        """The failed job's error: code and sentence."""
        job_id = await self.submit(await self.keep(data, scan_status), **options)
        await self.drain()
        job = await self.job(job_id)
        assert job.status == "failed", (job.status, job.result)
        return job.error_code, job.error_detail

    def worker(self, *, window_seconds: float = 300.0, **parts: Any) -> Drain:
        """One worker's drain loop. `parts` replace fields of `Work` (a queue, a decoder)."""
        handler = Transcriber(self.whisper, self.limits, lease_seconds=LEASE_SECONDS, window_seconds=window_seconds)
        settings = DrainSettings(linger_seconds=0, lease_seconds=LEASE_SECONDS)
        return Drain("transcribe", handler, replace(self.work, **parts), settings)

    async def drain(self, **parts: Any) -> None:
        await self.worker(**parts).run()

    async def drain_with_a_worker_for_each_stretch(self, job_id: str) -> int:
        """Stops each worker once it has stored segments. Returns how many there were."""
        for number in itertools.count(1):

            async def stop(lease: Lease, segment: int, stop: asyncio.Event) -> None:
                stop.set()
                await asyncio.Event().wait()

            queue = WatchedQueue(self.work.database)
            worker = self.worker(queue=queue)
            queue.after_segment = functools.partial(stop, stop=worker.stop)
            await worker.run()
            if (await self.job(job_id)).status != "queued":
                return number
        raise AssertionError

    async def job(self, job_id: str) -> Any:
        async with self.work.database.transaction() as tx:
            return await tx.first("SELECT * FROM job WHERE job_id = %(id)s", {"id": job_id})

    async def segments(self, job_id: str) -> list[dict[str, Any]]:
        return await self.work.queue.segments(job_id)

    async def hold_segments_from(self, number: int) -> None:
        """Makes transactions that write a segment of this number or above hang."""
        async with self.rows.as_owner() as tx:
            await tx.execute(
                "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN IF NEW.number >= {number} THEN PERFORM pg_sleep(600); END IF; RETURN NEW; END $$"
            )
            await tx.execute("CREATE TRIGGER hold BEFORE INSERT ON segment FOR EACH ROW EXECUTE FUNCTION hold()")

    async def held_writer(self) -> int | None:
        """Waits for the server process that hangs there, and returns it."""
        async with self.work.database.transaction() as tx:
            pid: int | None = await tx.value(
                "SELECT pid FROM pg_stat_activity WHERE usename = current_user AND wait_event = 'PgSleep'"
            )
            return pid

    async def let_go(self, writer: int) -> None:
        """Ends the dead client's server process, and lets others write."""
        async with self.work.database.transaction() as tx:
            await tx.execute("SELECT pg_terminate_backend(%(pid)s, 10000)", {"pid": writer})
        async with self.rows.as_owner() as tx:
            await tx.execute("DROP FUNCTION hold CASCADE")

    async def allow(self, **changes: Any) -> None:
        await self.rows.declare(replace(await self.work.policy.current(), **changes))
        self.work.policy = self.work.library.policy = PolicyReader(self.work.database)


@pytest.fixture
def tenant(
    tenant_database: TenantDatabase,
    database: Database,
    folder_store: FolderStore,
    library: Library,
    decoding_pool: DecodingPool,
    whisper: Whisper,
) -> Tenant:
    work = Work(database, Queue(database), library, folder_store, decoding_pool, PolicyReader(database))
    return Tenant(tenant_database, work, whisper, TranscriptionSettings())


class WatchedQueue(Queue):
    """The real queue. It records the reported progress, and calls `after_segment(lease, number)` after each segment."""

    def __init__(self, database: Database, after_segment: Callable[[Lease, int], Any] | None = None) -> None:
        super().__init__(database)
        self.progress: list[float] = []
        self.after_segment = after_segment

    async def renew(self, lease: Lease, *, seconds: float, progress: float | None = None) -> None:
        if progress is not None:
            self.progress.append(progress)
        await super().renew(lease, seconds=seconds, progress=progress)

    async def append_segments(self, lease: Lease, segments: Any, **options: Any) -> None:
        await super().append_segments(lease, segments, **options)
        if self.after_segment is not None and segments:
            await self.after_segment(lease, segments[-1]["number"])


class WatchedDecoder(DecodingPool):
    """The real pool. It records its tasks."""

    def __init__(self, pool: DecodingPool) -> None:
        self._pool = pool
        self.windows: list[float] = []

    async def run(self, task: str, source: Source, **arguments: Any) -> Any:
        if task == "audio_window":
            self.windows.append(arguments["start"])
        return await self._pool.run(task, source, **arguments)


class BreakingDecoder(WatchedDecoder):
    """It decodes no more than the beginnings of two stretches."""

    async def run(self, task: str, source: Source, **arguments: Any) -> Any:
        decoded = await super().run(task, source, **arguments)
        if len(set(self.windows)) > 2:
            raise DecodingFailed("corrupt", "a packet is damaged")
        return decoded


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def wav(samples: "np.ndarray[Any, Any]") -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return out.getvalue()


def samples_of(name: str) -> "np.ndarray[Any, Any]":
    with av.open(str(SAMPLES / name)) as container:
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
        frames = itertools.chain(container.decode(audio=0), [None])
        parts = [out.to_ndarray()[0] for frame in frames for out in resampler.resample(frame)]
    return np.concatenate(parts).astype(np.float32) / 32768


def encoded(name: str, container: str, codec: str, rate: int, picture: bool = False, **options: str) -> bytes:
    """A sample in another container and codec, optionally with a video stream."""
    out = io.BytesIO()
    with av.open(str(SAMPLES / name)) as source, av.open(out, "w", format=container, options=options) as target:
        sound = target.add_stream(codec, rate=rate, layout="mono")
        if picture:
            video = target.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
            for _ in range(30):
                target.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
            target.mux(video.encode(None))
        resampler = av.AudioResampler(sound.codec_context.format or "s16", "mono", rate)
        for frame in itertools.chain(source.decode(audio=0), [None]):
            for converted in resampler.resample(frame):
                target.mux(sound.encode(converted))
        target.mux(sound.encode(None))
    return out.getvalue()


def alike(left: str, right: str) -> float:
    return difflib.SequenceMatcher(None, left.split(), right.split(), autojunk=False).ratio()


def unheard(segments: list[dict[str, Any]], spoken: list[dict[str, Any]], offset: float = 0.0) -> list[dict[str, Any]]:
    """Spoken words of which less than half lies within the segments."""

    def overlap(said: dict[str, Any]) -> float:
        start, end = said["start"] + offset, said["end"] + offset
        return sum(max(min(s["end"], end) - max(s["start"], start), 0) for s in segments)

    return [said for said in spoken if overlap(said) < (said["end"] - said["start"]) / 2]


def in_order(segments: list[dict[str, Any]]) -> bool:
    times = [moment for segment in segments for moment in (segment["start"], segment["end"])]
    return times == sorted(times)


# -- what is said ------------------------------------------------------------------------------------------------------


async def test_clean_speech_is_transcribed_word_for_word_in_its_language(tenant: Tenant) -> None:
    jobs = {name: await tenant.submit(await tenant.keep(sample(name))) for name in CLEAN}
    await tenant.drain()
    for name, job_id in jobs.items():
        job, expected = await tenant.job(job_id), SPOKEN[name]
        assert (job.status, job.progress) == ("completed", 1)
        assert (job.result["transcript"], job.result["language"]) == (expected["text"], expected["language"]), name
        assert job.result["duration"] == pytest.approx(expected["duration"], abs=0.01)
        segments = job.result["segments"]
        assert [segment["id"] for segment in segments] == list(range(len(expected["segments"])))
        assert [segment["text"] for segment in segments] == [segment["text"] for segment in expected["segments"]]
        for said, meant in zip(segments, expected["segments"], strict=True):
            assert set(said) == {"id", "start", "end", "text"}
            assert said["start"] == pytest.approx(meant["start"], abs=0.5)
            assert said["end"] == pytest.approx(meant["end"], abs=0.5)


@pytest.mark.parametrize(
    ("container", "codec", "rate", "picture"),
    [
        ("ipod", "aac", 44100, False),
        ("mp3", "libmp3lame", 44100, False),
        ("ogg", "libopus", 48000, False),
        ("webm", "libopus", 48000, False),
        ("flac", "flac", 16000, False),
        ("mp4", "aac", 48000, True),
    ],
)
async def test_the_container_and_codec_make_no_difference(
    tenant: Tenant, container: str, codec: str, rate: int, picture: bool
) -> None:
    result = await tenant.transcribe(encoded("digits_en.wav", container, codec, rate, picture))
    assert result["transcript"] == SPOKEN["digits_en.wav"]["text"]
    assert result["duration"] == pytest.approx(SPOKEN["digits_en.wav"]["duration"], abs=0.1)


@pytest.mark.parametrize(
    ("container", "codec", "rate", "picture", "options"),
    [
        ("caf", "alac", 48000, False, {}),
        ("mpegts", "aac", 48000, True, {"mpegts_m2ts_mode": "1"}),
        ("matroska", "wavpack", 48000, True, {}),
        ("adts", "aac", 48000, False, {}),
    ],
)
async def test_nor_does_a_camcorder_or_a_voice_note(
    tenant: Tenant, container: str, codec: str, rate: int, picture: bool, options: dict[str, str]
) -> None:
    result = await tenant.transcribe(encoded("digits_en.wav", container, codec, rate, picture, **options))
    assert result["transcript"] == SPOKEN["digits_en.wav"]["text"]
    assert result["duration"] == pytest.approx(SPOKEN["digits_en.wav"]["duration"], abs=0.15)


# -- tracks and channels -----------------------------------------------------------------------------------------------


def tracks(*names: "str | np.ndarray[Any, Any] | None", codec: str = "flac", picture: str | None = None) -> bytes:
    """Matroska with a sound track for each sample; None: silence."""
    silence = np.zeros(6 * SAMPLE_RATE, np.float32)
    sounds = [silence if name is None else samples_of(name) if isinstance(name, str) else name for name in names]
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as target:
        streams = [target.add_stream(codec, rate=SAMPLE_RATE, layout="mono") for _ in sounds]
        film = target.add_stream(picture, rate=10, width=64, height=64, pix_fmt="yuv420p") if picture else None
        for number, stream in enumerate(streams, 1):
            stream.metadata.update({"title": f"Track {number}", "language": "eng"})
        for _ in range(10 if film else 0):
            target.mux(film.encode(av.VideoFrame(64, 64, "yuv420p")))
        for stream, samples in zip(streams, sounds, strict=True):
            for at in range(0, len(samples), SAMPLE_RATE):
                frame = av.AudioFrame.from_ndarray(
                    (samples[at : at + SAMPLE_RATE] * 32767).astype("<i2")[np.newaxis], "s16", "mono"
                )
                frame.sample_rate, frame.pts = SAMPLE_RATE, at
                target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
        if film:
            target.mux(film.encode(None))
    return out.getvalue()


async def test_a_picture_in_a_codec_that_is_not_decoded_does_not_cost_the_sound(tenant: Tenant) -> None:
    result = await tenant.transcribe(tracks("digits_en.wav", picture="ffv1"))
    assert result["transcript"] == SPOKEN["digits_en.wav"]["text"]


async def test_a_first_track_that_nobody_can_decode_is_passed_over(tenant: Tenant) -> None:
    film = tracks(None, "digits_en.wav", picture="mpeg4").replace(b"A_FLAC", b"A_APAC", 1)
    result = await tenant.transcribe(film)
    assert (result["transcript"], result["track"]) == (SPOKEN["digits_en.wav"]["text"], 2)
    assert [(track["number"], track["decodes"]) for track in result["tracks"]] == [(1, False), (2, True)]


async def test_of_a_silent_track_and_one_that_speaks_the_second_is_heard(tenant: Tenant) -> None:
    result = await tenant.transcribe(tracks(None, None, "digits_en.wav"))
    assert (result["transcript"], result["track"], result["channel"]) == (SPOKEN["digits_en.wav"]["text"], 3, None)
    assert result["tracks"][2] == {
        "number": 3,
        "codec": "flac",
        "channels": 1,
        "language": "eng",
        "title": "Track 3",
        "decodes": True,
    }


async def test_a_track_that_speaks_late_is_heard_after_others_have_ended(tenant: Tenant) -> None:
    late = np.concatenate([np.zeros(50 * SAMPLE_RATE, np.float32), samples_of("gruss_de.wav")])
    job_id = await tenant.submit(await tenant.keep(tracks(None, late)))
    await tenant.drain(window_seconds=20.0)
    result = (await tenant.job(job_id)).result
    assert (result["transcript"], result["track"]) == (SPOKEN["gruss_de.wav"]["text"], 2)
    assert result["segments"][0]["start"] == pytest.approx(50.3, abs=1.0)
    assert result["duration"] == pytest.approx(len(late) / SAMPLE_RATE, abs=0.2)


async def test_where_no_track_speaks_the_recording_is_silent(tenant: Tenant) -> None:
    result = await tenant.transcribe(tracks(None, None))
    assert (result["transcript"], result["language"], result["track"]) == ("", None, 1)


async def test_what_was_heard_is_not_lost_where_the_search_does_not_take_it(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passages, "_TRANSCRIPT", "SELECT 1 / 0 WHERE %(job_id)s IS NOT NULL")
    assert (await tenant.transcribe(tracks(None, None)))["transcript"] == ""
    (job,) = await tenant.work.database.call("SELECT status, attempts, searchable FROM job", ())
    assert (job.status, job.attempts, job.searchable) == ("completed", 1, False)


async def test_a_track_can_be_chosen(tenant: Tenant) -> None:
    two = tracks("digits_en.wav", "gruss_de.wav")
    assert (await tenant.transcribe(two))["transcript"] == SPOKEN["digits_en.wav"]["text"]
    second = await tenant.transcribe(two, track=2)
    assert (second["transcript"], second["track"]) == (SPOKEN["gruss_de.wav"]["text"], 2)
    code, sentence = await tenant.refusal(two, track=3)
    assert (code, sentence) == ("no_such_track", "There is no sound track 3 in this file; it has 2.")


async def test_a_worker_that_takes_over_keeps_to_the_track(tenant: Tenant) -> None:
    recording = tracks(None, "long_en.m4a")
    expected = await tenant.transcribe(recording, language="en")
    assert expected["track"] == 2
    assert unheard(expected["segments"], SPOKEN["long_en.m4a"]["segments"]) == []

    job_id = await tenant.submit(await tenant.keep(recording), language="en")
    await tenant.drain_with_a_worker_for_each_stretch(job_id)
    job = await tenant.job(job_id)
    assert (job.status, job.result) == ("completed", expected)


def stereo(left: "np.ndarray[Any, Any]", right: "np.ndarray[Any, Any]") -> bytes:
    return media.interleaved(*((part * 32767).astype("<i2").tobytes() for part in (left, right)))


async def test_stereo_out_of_phase_is_heard(tenant: Tenant) -> None:
    said = samples_of("digits_en.wav")
    offset = (0.4 * said + 0.2, 0.2 - 0.4 * said)
    in_part = (said, np.where(np.arange(len(said)) < len(said) // 2, said, -said))
    for left, right in ((said, -said), (said, -0.9 * said), (said, np.zeros_like(said)), (said, said), offset, in_part):
        result = await tenant.transcribe(stereo(left, right))
        assert result["transcript"] == SPOKEN["digits_en.wav"]["text"]


async def test_a_quiet_voice_is_heard_beside_a_constant_offset(tenant: Tenant) -> None:
    result = await tenant.transcribe(wav(0.05 * samples_of("digits_en.wav") - 0.4))
    assert result["transcript"] == SPOKEN["digits_en.wav"]["text"]


async def test_nor_does_an_offset_of_one_part_make_the_rest_silent(tenant: Tenant) -> None:
    said = samples_of("digits_en.wav")
    pause = np.zeros(SAMPLE_RATE)
    result = await tenant.transcribe(wav(np.concatenate([0.6 * said - 0.3, pause, 0.02 * said, pause])))
    text = SPOKEN["digits_en.wav"]["text"]
    assert result["transcript"] == f"{text} {text}"


async def test_a_channel_can_be_chosen(tenant: Tenant) -> None:
    english, german = samples_of("digits_en.wav"), samples_of("gruss_de.wav")
    length = max(len(english), len(german))
    both = stereo(*(np.pad(said, (0, length - len(said))) for said in (english, german)))
    for channel, name in ((1, "digits_en.wav"), (2, "gruss_de.wav")):
        result = await tenant.transcribe(both, channel=channel)
        assert (result["transcript"], result["channel"]) == (SPOKEN[name]["text"], channel)
    code, sentence = await tenant.refusal(both, channel=3)
    assert (code, sentence) == ("no_such_channel", "There is no channel 3 in this file's sound; it has 2.")


async def test_split_channels_are_one_speaker_each(tenant: Tenant) -> None:
    first, second = samples_of("digits_en.wav"), samples_of("two_phrases_en.wav")
    silence = (np.zeros_like(first), np.zeros_like(second))
    data = stereo(np.concatenate([silence[0], second]), np.concatenate([first, silence[1]]))
    seconds = (len(first) + len(second)) / SAMPLE_RATE
    job_id = await tenant.submit(await tenant.keep(data), channels="split")
    await tenant.drain()
    job = await tenant.job(job_id)
    result = job.result
    assert (result["channels"], result["channel"], round(result["duration"], 1)) == (2, None, round(seconds, 1))
    assert abs(job.charged_seconds - 2 * seconds) <= 1
    assert [segment["id"] for segment in result["segments"]] == list(range(len(result["segments"])))
    said = {
        speaker: " ".join(segment["text"] for segment in result["segments"] if segment["speaker"] == speaker)
        for speaker in ("channel 2", "channel 1")
    }
    assert said == {
        "channel 2": SPOKEN["digits_en.wav"]["text"],
        "channel 1": SPOKEN["two_phrases_en.wav"]["text"],
    }
    assert result["transcript"] == " ".join(said.values())
    assert formats.vtt(result).splitlines()[3].startswith("<v channel 2>")
    assert formats.srt(result).splitlines()[2].startswith("channel 2: ")


async def test_each_of_split_channels_has_its_language(tenant: Tenant) -> None:
    english, german = samples_of("digits_en.wav"), samples_of("gruss_de.wav")
    length = max(len(english), len(german))
    data = stereo(*(np.pad(said, (0, length - len(said))) for said in (english, german)))
    result = await tenant.transcribe(data, channels="split")
    said_by = {
        (segment["channel"], segment["language"]): " ".join(
            each["text"] for each in result["segments"] if each["channel"] == segment["channel"]
        )
        for segment in result["segments"]
    }
    assert said_by == {(1, "en"): SPOKEN["digits_en.wav"]["text"], (2, "de"): SPOKEN["gruss_de.wav"]["text"]}


async def test_a_worker_that_takes_over_goes_on_with_the_channel(tenant: Tenant) -> None:
    said = samples_of("digits_en.wav")
    job_id = await tenant.submit(await tenant.keep(stereo(said, said)), channels="split")
    lease = await tenant.work.queue.lease("transcribe", worker="dead", seconds=60)
    assert lease is not None
    heard = {"number": 0, "start": 0.0, "end": 0.5, "text": "said before", "words": None, "channel": 1}
    seconds = len(said) / SAMPLE_RATE
    place = {"language": "en", "track": 1, "unfinished": [], "channel": 2, "before": seconds}
    await tenant.work.queue.append_segments(lease, [heard], place=place)
    await tenant.work.queue.release(lease)
    await tenant.drain()
    job = await tenant.job(job_id)
    assert [segment["text"] for segment in job.result["segments"] if segment["channel"] == 1] == ["said before"]
    said_in_2 = " ".join(segment["text"] for segment in job.result["segments"] if segment["channel"] == 2)
    assert said_in_2 == SPOKEN["digits_en.wav"]["text"]
    assert abs(job.charged_seconds - 2 * seconds) <= 1


async def test_a_mono_file_that_is_split_has_one_channel(tenant: Tenant) -> None:
    result = await tenant.transcribe(sample("digits_en.wav"), channels="split")
    assert result["channels"] == 1
    assert {segment["speaker"] for segment in result["segments"]} == {"channel 1"}
    assert result["transcript"] == SPOKEN["digits_en.wav"]["text"]


async def test_words_come_with_their_times_when_asked_for(tenant: Tenant) -> None:
    result = await tenant.transcribe(sample("two_phrases_en.wav"), word_timestamps=True)
    words = [word for segment in result["segments"] for word in segment["words"]]
    expected = SPOKEN["two_phrases_en.wav"]["words"]
    assert [word["word"] for word in words] == [word["word"] for word in expected]
    for said, meant in zip(words, expected, strict=True):
        assert said["start"] <= said["end"]
        assert said["start"] == pytest.approx(meant["start"], abs=0.6)
        assert 0 <= said["probability"] <= 1


async def test_a_translation_is_english_and_names_the_language_that_was_spoken(tenant: Tenant) -> None:
    result = await tenant.transcribe(sample("gruss_de.wav"), task="translate")
    assert (result["transcript"], result["language"]) == ("good morning world five and eight", "de")


async def test_a_model_that_can_not_translate_says_so_and_does_not_answer_in_the_wrong_language(
    tenant: Tenant, tmp_path: Path
) -> None:
    (tmp_path / "faster-whisper-large-v3-turbo").symlink_to(MODEL)
    named = Whisper(WhisperSettings(model=str(tmp_path / "faster-whisper-large-v3-turbo"), local_files_only=True))
    (tmp_path / "ours").mkdir()
    for file in MODEL.iterdir():
        (tmp_path / "ours" / file.name).symlink_to(file)
    config = json.loads((MODEL / "config.json").read_text())
    (tmp_path / "ours" / "config.json").unlink()
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config | {"alignment_heads": [[1, 0], [1, 1]]}))
    distilled = Whisper(WhisperSettings(model=str(tmp_path / "ours"), local_files_only=True))
    for tenant.whisper in (named, distilled):
        code, sentence = await tenant.refusal(sample("gruss_de.wav"), task="translate")
        assert code == "translation_unavailable"
        assert "can't translate" in sentence
        assert (await tenant.transcribe(sample("gruss_de.wav")))["language"] == "de"


@pytest.mark.parametrize("language", ["en", None])
async def test_where_nobody_speaks_the_language_is_that_which_was_given(tenant: Tenant, language: str | None) -> None:
    result = await tenant.transcribe(wav(np.zeros(SAMPLE_RATE, np.float32)), language=language)
    assert (result["transcript"], result["segments"], result["language"]) == ("", [], language)


@pytest.mark.parametrize("hint", ["report", "open the new report " * 300])
async def test_hints_of_any_length_are_taken_and_the_language_may_be_given(tenant: Tenant, hint: str) -> None:
    result = await tenant.transcribe(sample("digits_en.wav"), language="en", prompt=hint, hotwords=hint, vad=False)
    assert result["language"] == "en"
    assert alike(result["transcript"], SPOKEN["digits_en.wav"]["text"]) > 0.6


async def test_the_language_is_that_of_the_first_speech_however_late_it_comes(tenant: Tenant) -> None:
    late = np.concatenate([np.zeros(50 * SAMPLE_RATE, np.float32), samples_of("gruss_de.wav")])
    job_id = await tenant.submit(await tenant.keep(wav(late)))
    await tenant.drain(window_seconds=30.0)
    result = (await tenant.job(job_id)).result
    assert (result["transcript"], result["language"]) == (SPOKEN["gruss_de.wav"]["text"], "de")
    assert result["segments"][0]["start"] == pytest.approx(50.3, abs=1.0)


async def test_each_segment_has_its_language_where_that_changes(tenant: Tenant) -> None:
    pause = np.zeros(SAMPLE_RATE, np.float32)
    names = ["greeting_en.wav", "gruss_de.wav", "digits_en.wav"]
    both = wav(np.concatenate([part for name in names for part in (samples_of(name), pause)]))
    result = await tenant.transcribe(both, multilingual=True)
    said = [(segment["text"], segment["language"]) for segment in result["segments"]]
    assert said == [(SPOKEN[name]["text"], SPOKEN[name]["language"]) for name in names]
    assert result["language"] == "en"
    assert "language" not in (await tenant.transcribe(both))["segments"][0]


@pytest.mark.parametrize("vad", [True, False])
async def test_where_nobody_speaks_there_is_no_text_and_no_language(tenant: Tenant, vad: bool) -> None:
    noise = np.random.default_rng(7).standard_normal(5 * SAMPLE_RATE).astype(np.float32) * 0.02
    for data in (sample("tone_no_speech.wav"), wav(np.zeros(35 * SAMPLE_RATE, np.float32)), wav(noise)):
        result = await tenant.transcribe(data, vad=vad)
        assert (result["transcript"], result["segments"], result["language"]) == ("", [], None)
        assert result["duration"] > 2.9


def test_core_names_the_languages_that_the_models_know() -> None:
    assert frozenset(_LANGUAGE_CODES) == frozenset(formats.LANGUAGES)


# -- long recordings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window_seconds", [300.0, 30.0])
async def test_a_long_recording_reports_rising_progress_and_loses_nothing_between_windows(
    tenant: Tenant, window_seconds: float
) -> None:
    job_id = await tenant.submit(await tenant.keep(sample("long_en.m4a")))
    queue = WatchedQueue(tenant.work.database)
    decoder = WatchedDecoder(tenant.work.decoder)
    await tenant.drain(window_seconds=window_seconds, queue=queue, decoder=decoder)

    expected, result = SPOKEN["long_en.m4a"], (await tenant.job(job_id)).result
    assert result["language"] == "en"
    assert result["duration"] == pytest.approx(expected["duration"], abs=0.05)
    assert alike(result["transcript"], expected["text"]) > 0.9
    assert in_order(result["segments"])
    assert unheard(result["segments"], expected["segments"]) == []
    assert len(set(queue.progress)) >= 3
    assert queue.progress == sorted(queue.progress)
    assert 0 < queue.progress[0] < 0.5
    assert queue.progress[-1] == 1
    assert len(decoder.windows) == len(queue.progress)
    assert await tenant.segments(job_id) == [
        {"number": s["id"], "start": s["start"], "end": s["end"], "text": s["text"], "words": None}
        for s in result["segments"]
    ]


# -- leases ------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_job_stops_after_the_segments_it_is_at(tenant: Tenant) -> None:
    job_id = await tenant.submit(await tenant.keep(sample("long_en.m4a")))
    stored: list[int] = []

    async def cancel_it(lease: Lease, number: int) -> None:
        stored.append(number + 1)
        async with tenant.work.database.transaction() as tx:
            await cancel(tx, lease.job_id)

    await tenant.drain(queue=WatchedQueue(tenant.work.database, cancel_it))
    job = await tenant.job(job_id)
    assert (job.status, job.result, job.error_code) == ("cancelled", None, None)
    assert [len(await tenant.segments(job_id))] == stored


class SlowModel(Model):
    """Hears no stretch until two are begun. Then it hears the first `stretches`, and no more until it is cancelled."""

    def __init__(self, model: Model, stretches: int = 0) -> None:
        self.__dict__.update(vars(model))
        self.stretches = stretches
        self.under_way = self.begun = 0
        self.began_two = asyncio.Event()

    async def hear(self, *arguments: Any) -> Any:
        self.begun += 1
        number = self.begun
        self.under_way += 1
        try:
            if number == 2:
                self.began_two.set()
            await self.began_two.wait()
            if number > self.stretches:
                await asyncio.Event().wait()
            return await super().hear(*arguments)
        finally:
            self.under_way -= 1


def slow(tenant: Tenant, model: Model, stretches: int = 0) -> SlowModel:
    tenant.whisper = Whisper(WhisperSettings(model=str(MODEL), chunk_seconds=CHUNK_SECONDS))
    tenant.whisper._model = slow = SlowModel(model, stretches)
    return slow


async def test_the_next_stretch_is_begun_while_one_is_heard(tenant: Tenant) -> None:
    recording = sample("long_en.m4a")
    alone = await tenant.whole(recording, language="en")
    model = slow(tenant, await tenant.whisper.model(), stretches=1000)
    assert await asyncio.wait_for(tenant.transcribe(recording, language="en"), 120) == alone
    assert model.under_way == 0


class WatchedModel(Model):
    """Notes which stretches are heard quickly."""

    def __init__(self, model: Model) -> None:
        self.__dict__.update(vars(model))
        self.quickly: list[bool] = []

    async def hear(self, *arguments: Any) -> Any:
        self.quickly.append(arguments[-1])
        return await super().hear(*arguments)


async def test_clear_speech_is_heard_quickly_once_a_stretch_of_it_is_known(tenant: Tenant) -> None:
    recording = sample("long_en.m4a")
    with_care = await tenant.whole(recording, language="en")
    tenant.whisper = Whisper(WhisperSettings(model=str(MODEL), chunk_seconds=CHUNK_SECONDS))
    tenant.whisper._model = model = WatchedModel(await tenant.whisper.model())
    assert await tenant.transcribe(recording, language="en") == with_care
    assert model.quickly == [False, False, True]


async def test_what_is_said_before_a_damaged_place_is_stored(tenant: Tenant) -> None:
    recording = sample("long_en.m4a")
    whole = await tenant.whole(recording, language="en")
    job_id = await tenant.submit(await tenant.keep(recording), language="en")
    decoder = BreakingDecoder(tenant.work.decoder)
    await tenant.drain(decoder=decoder)
    job = await tenant.job(job_id)
    assert (job.status, job.error_code) == ("failed", "corrupt")
    stored = [segment["text"] for segment in await tenant.segments(job_id)]
    assert stored == [segment["text"] for segment in whole["segments"][: len(stored)]]
    assert whole["segments"][len(stored)]["end"] > max(decoder.windows)


async def test_a_cancelled_job_does_not_wait_for_the_model(tenant: Tenant) -> None:
    model = slow(tenant, await tenant.whisper.model())
    job_id = await tenant.submit(await tenant.keep(sample("long_en.m4a")), language="en")
    draining = asyncio.create_task(tenant.drain())
    await model.began_two.wait()
    async with tenant.work.database.transaction() as tx:
        await cancel(tx, job_id)
    await draining  # long before its lease would have to be renewed
    assert (await tenant.job(job_id)).status == "cancelled"
    assert (model.begun, model.under_way) == (2, 0)


async def test_a_stopped_worker_hands_the_job_back_and_the_next_one_goes_on(tenant: Tenant) -> None:
    expected = await tenant.whole(sample("long_en.m4a"))
    job_id = await tenant.submit(await tenant.keep(sample("long_en.m4a")))

    async def stop(lease: Lease, number: int) -> None:
        worker.stop.set()
        await asyncio.Event().wait()  # until the worker interrupts the job, so that it continues at a fixed place

    worker = tenant.worker(queue=WatchedQueue(tenant.work.database, stop))
    await worker.run()
    job, before = await tenant.job(job_id), await tenant.segments(job_id)
    assert (job.status, job.attempts) == ("queued", 0)
    assert 0 < len(before) < len(expected["segments"]) / 2

    decoder = WatchedDecoder(tenant.work.decoder)
    await tenant.drain(decoder=decoder)
    job, after = await tenant.job(job_id), await tenant.segments(job_id)
    assert (job.status, job.attempts, job.result) == ("completed", 1, expected)
    assert after[: len(before)] == before
    assert min(decoder.windows) > before[-1]["end"] - 5


@pytest.mark.parametrize("options", [{"word_timestamps": True}, {"vad": False}])
async def test_a_worker_for_each_stretch_makes_the_transcript_of_one(tenant: Tenant, options: dict[str, Any]) -> None:
    recording = sample("long_en.m4a")
    expected = await tenant.whole(recording, **options)
    job_id = await tenant.submit(await tenant.keep(recording), **options)
    assert await tenant.drain_with_a_worker_for_each_stretch(job_id) >= 3
    assert (await tenant.job(job_id)).result == expected


async def test_two_workers_never_write_one_job_twice(tenant: Tenant) -> None:
    job_id = await tenant.submit(await tenant.keep(sample("long_en.m4a")), language="en")
    decoder = WatchedDecoder(tenant.work.decoder)
    stalled, overtaken = asyncio.Event(), asyncio.Event()

    async def stall(lease: Lease, number: int) -> None:
        stalled.set()
        await overtaken.wait()

    slow = asyncio.create_task(tenant.drain(queue=WatchedQueue(tenant.work.database, stall)))
    await stalled.wait()
    between = await tenant.segments(job_id)
    async with tenant.work.database.transaction() as tx:
        await tx.execute("UPDATE job SET lease_until = now() - interval '1 second'")
    await tenant.drain(decoder=decoder)
    finished = await tenant.job(job_id)
    overtaken.set()
    await slow

    assert (finished.status, finished.attempts) == ("completed", 2)
    assert await tenant.job(job_id) == finished
    segments = await tenant.segments(job_id)
    assert segments[: len(between)] == between
    assert min(decoder.windows) > between[-1]["end"] - 5
    assert [segment["number"] for segment in segments] == list(range(len(segments)))
    assert in_order(segments)
    assert unheard(segments, SPOKEN["long_en.m4a"]["segments"]) == []


async def test_a_short_recording_waits_for_no_long_one_where_two_workers_are(tenant: Tenant) -> None:
    long = await tenant.submit(await tenant.keep(sample("long_en.m4a")), language="en")
    short = await tenant.submit(await tenant.keep(sample("greeting_en.wav")), language="en")
    began, short_ended = asyncio.Event(), asyncio.Event()

    async def wait(lease: Lease, number: int) -> None:
        assert lease.job_id == long
        began.set()
        await short_ended.wait()

    first = asyncio.create_task(tenant.drain(queue=WatchedQueue(tenant.work.database, wait)))
    await began.wait()
    await tenant.drain()  # the second worker, which ends as nothing is left for it
    between = [(await tenant.job(job_id)).status for job_id in (long, short)]
    short_ended.set()
    await first
    assert between == ["running", "completed"]
    assert (await tenant.job(short)).result["transcript"] == SPOKEN["greeting_en.wav"]["text"]
    assert (await tenant.job(long)).status == "completed"


@pytest.mark.parametrize("killed_at", [0, 14])
async def test_after_kill_9_another_worker_goes_on_as_the_first_one_would_have(
    tenant: Tenant, tenant_database: TenantDatabase, tmp_path: Path, killed_at: int
) -> None:
    recording = sample("long_en.m4a")
    job_id = await tenant.submit(await tenant.keep(recording))
    environment = os.environ | {
        "MEDIA_TENANT_ID": tenant_database.tenant_id,
        "MEDIA_DATABASE_URL": tenant_database.url,
        "MEDIA_STORE": "folder",
        "MEDIA_STORE_FOLDER": str(tmp_path / "bucket"),
        "MEDIA_STORE_SIGNING_KEY": "00" * 32,
        "MEDIA_PUBLIC_URL": "http://127.0.0.1:1",
        "MEDIA_WHISPER_MODEL": str(MODEL),
        "MEDIA_WHISPER_CHUNK_SECONDS": str(CHUNK_SECONDS),
        "MEDIA_WHISPER_CPU_THREADS": "1",
        "MEDIA_WORKER_LEASE_SECONDS": "60",
    }
    await tenant.hold_segments_from(killed_at)
    worker = Program(WORKERS, environment, tmp_path / "worker.log", "transcribe")
    try:
        while (writer := await tenant.held_writer()) is None:
            assert worker.returncode is None, (tmp_path / "worker.log").read_text()
            await asyncio.sleep(0.02)  # another process's progress: there is nothing to await
        before = await tenant.segments(job_id)
        worker.kill()
        worker.wait()
        await tenant.let_go(writer)
    finally:
        worker.kill()
        worker.wait()
    assert (await tenant.job(job_id)).status == "running"
    assert len(before) <= killed_at
    async with tenant_database.as_owner() as tx:
        await tx.execute("UPDATE job SET lease_until = now() - interval '1 second'")

    decoder = WatchedDecoder(tenant.work.decoder)
    while (await tenant.job(job_id)).status == "running":
        await tenant.drain(decoder=decoder)
        await asyncio.sleep(0.1)

    job, after = await tenant.job(job_id), await tenant.segments(job_id)
    assert (job.status, job.attempts, job.result["language"]) == ("completed", 2, "en")
    assert after[: len(before)] == before
    # What was stored is not transcribed again.
    assert min(decoder.windows) > (before[-1]["end"] - 5 if before else -1)
    assert in_order(after)
    assert job.result == await tenant.whole(recording)
    assert unheard(after, SPOKEN["long_en.m4a"]["segments"]) == []


# -- what is not transcribed -------------------------------------------------------------------------------------------


async def test_a_recording_over_the_cap_is_refused_before_anything_is_decoded(tenant: Tenant) -> None:
    tenant.limits = TranscriptionSettings(max_seconds=60)
    job_id = await tenant.submit(await tenant.keep(sample("long_en.m4a")))
    decoder = WatchedDecoder(tenant.work.decoder)
    await tenant.drain(decoder=decoder)
    job = await tenant.job(job_id)
    assert (job.status, job.error_code, job.attempts) == ("failed", "duration_exceeds_limit", 1)
    assert "1 minutes" in job.error_detail
    assert decoder.windows == []


async def test_a_header_that_lies_about_the_duration_does_not_get_round_the_cap(tenant: Tenant) -> None:
    tenant.limits = TranscriptionSettings(max_seconds=60)
    honest = encoded("long_en.m4a", "matroska", "libopus", 48000)
    place = honest.index(b"\x44\x89\x88") + 3  # the Duration element: a float64 of milliseconds
    lying = honest[:place] + struct.pack(">d", 5000.0) + honest[place + 8 :]
    job_id = await tenant.submit(await tenant.keep(lying))
    await tenant.drain(window_seconds=30.0)
    job = await tenant.job(job_id)
    assert (job.status, job.error_code) == ("failed", "duration_exceeds_limit")


async def test_a_header_that_says_too_much_is_not_paid_for(tenant: Tenant) -> None:
    honest = encoded("digits_en.wav", "matroska", "libopus", 48000)
    place = honest.index(b"\x44\x89\x88") + 3
    lying = honest[:place] + struct.pack(">d", 1_000_000.0) + honest[place + 8 :]
    result = await tenant.transcribe(lying)
    assert result["duration"] == pytest.approx(SPOKEN["digits_en.wav"]["duration"], abs=0.2)
    async with tenant.work.database.transaction() as tx:
        charged = await tx.value("SELECT seconds FROM transcription_day")
    assert charged == pytest.approx(SPOKEN["digits_en.wav"]["duration"], abs=1.5)


async def test_a_day_that_is_used_up_refuses_the_rest(tenant: Tenant) -> None:
    await tenant.allow(max_transcription_seconds_per_day=5)
    assert (await tenant.transcribe(sample("greeting_en.wav")))["language"] == "en"
    code, sentence = await tenant.refusal(sample("digits_en.wav"))
    assert code == "transcription_limit_exceeded", sentence


async def test_what_holds_no_sound_is_refused(tenant: Tenant) -> None:
    assert (await tenant.refusal(silent_film()))[0] == "not_audio_or_video"
    assert (await tenant.refusal(b"just some text, not a recording\n" * 100))[0] in ("not_audio_or_video", "corrupt")


def silent_film() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        video = target.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        for _ in range(10):
            target.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        target.mux(video.encode(None))
    return out.getvalue()


async def test_a_language_the_model_does_not_know_is_refused(tenant: Tenant) -> None:
    code, sentence = await tenant.refusal(sample("greeting_en.wav"), language="xx")
    assert code == "unsupported_language"
    assert "'xx'" in sentence


async def test_a_job_waits_for_the_verdict_without_using_up_attempts(tenant: Tenant) -> None:
    data = sample("greeting_en.wav")
    job_id = await tenant.submit(await tenant.keep(data, "pending"))
    await tenant.drain()
    job = await tenant.job(job_id)
    assert (job.status, job.attempts) == ("queued", 0)
    assert job.run_after > job.created_at

    await tenant.allow(scan_enabled=False)
    async with tenant.work.database.transaction() as tx:
        await tx.execute("UPDATE job SET run_after = now()")
    await tenant.drain()
    assert (await tenant.job(job_id)).status == "completed"


async def test_infected_deleted_and_unscannable_recordings_are_not_opened(tenant: Tenant) -> None:
    decoder = WatchedDecoder(tenant.work.decoder)
    expected = {"infected": "not_found", "unscannable": "unscannable", "error": "scan_failed", "deleted": "not_found"}
    jobs = {}
    for number, status in enumerate(expected):
        recording = wav(np.zeros(SAMPLE_RATE + number, np.float32))
        media_id = await tenant.keep(recording, "clean" if status == "deleted" else status)
        jobs[status] = await tenant.submit(media_id)
        if status == "deleted":
            async with tenant.work.database.transaction() as tx:
                await tx.execute("DELETE FROM media WHERE media_id = %(id)s", {"id": media_id})
    await tenant.drain(decoder=decoder)
    assert {status: (await tenant.job(job_id)).error_code for status, job_id in jobs.items()} == expected
    assert decoder.windows == []


async def test_a_tenant_may_allow_what_the_scanner_could_not_look_into(tenant: Tenant) -> None:
    await tenant.allow(unscannable="Allow")
    job_id = await tenant.submit(await tenant.keep(sample("greeting_en.wav"), "unscannable"))
    await tenant.drain()
    assert (await tenant.job(job_id)).result["transcript"] == SPOKEN["greeting_en.wav"]["text"]


async def test_a_scan_still_under_way_is_waited_for_even_after_an_error(tenant: Tenant) -> None:
    media_id = await tenant.keep(sample("greeting_en.wav"), "error")
    job_id = await tenant.submit(media_id)
    async with tenant.work.database.transaction() as tx:
        sha256 = hashlib.sha256(sample("greeting_en.wav")).hexdigest()
        await enqueue(tx, "scan", {"sha256": sha256}, dedupe_key=sha256)
    await tenant.drain()
    assert (await tenant.job(job_id)).status == "queued"


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "gigantic"}, "is 'gigantic', which is neither a folder nor a model"),
        ({"model": "/no/such/folder"}, "is '/no/such/folder', and there is no such folder"),
        ({"model": "{empty}"}, "and that folder holds no model.bin"),
        ({"model": "{broken}"}, "can't be loaded on cpu"),
        ({"model": "small", "download_root": "{empty}"}, "MEDIA_WHISPER_LOCAL_FILES_ONLY forbids to download it"),
        ({"model": str(MODEL), "compute_type": "int3"}, "MEDIA_WHISPER_COMPUTE_TYPE is 'int3'"),
        pytest.param(
            {"model": str(MODEL), "device": "cuda"},
            "MEDIA_WHISPER_DEVICE is 'cuda', but this machine has no CUDA device that can be used; set it to cpu.",
            marks=pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU"),
        ),
    ],
)
async def test_a_model_that_cant_be_had_fails_the_job_with_the_setting_to_change(
    tenant: Tenant, tmp_path: Path, settings: dict[str, str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.bin").write_bytes(b"not a model" * 10)
    places = {"{empty}": str(tmp_path / "empty"), "{broken}": str(tmp_path / "broken")}
    named: dict[str, Any] = {name: places.get(value, value) for name, value in settings.items()}
    tenant.whisper = Whisper(WhisperSettings(local_files_only=True, **named))
    job_id = await tenant.submit(await tenant.keep(sample("greeting_en.wav")))
    await tenant.drain()
    job = await tenant.job(job_id)
    assert (job.status, job.error_code, job.attempts) == ("failed", "model_unavailable", 1)
    assert says in job.error_detail
    assert "\n" not in job.error_detail


async def test_the_model_is_loaded_once_for_all_jobs_of_a_worker(whisper: Whisper) -> None:
    first, second = await asyncio.gather(whisper.model(), whisper.model())
    assert first is second


async def test_of_a_recording_that_the_store_has_cut_no_half_is_taken_for_the_whole(tenant: Tenant) -> None:
    data = sample("greeting_en.wav")
    media_id = await tenant.keep(data)
    sha256 = hashlib.sha256(data).hexdigest()
    store = tenant.work.store
    assert isinstance(store, FolderStore)
    os.truncate(store._root / content_key(tenant.work.library.tenant_id, sha256), len(data) // 2)
    job_id = await tenant.submit(media_id)
    await tenant.drain()
    job = await tenant.job(job_id)
    assert (job.status, job.error_code) == ("queued", "file_lost")
    (row,) = await tenant.work.database.call("SELECT lost_at FROM blob", ())
    assert row.lost_at is not None
