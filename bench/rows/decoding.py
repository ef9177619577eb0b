"""The rows of thumbnails and transcripts, against the libraries that do the work."""

import hashlib
import io
import json
import os
from pathlib import Path

from faster_whisper import WhisperModel
from PIL import Image

from bench.clients import name_in
from bench.measure import ITEMS, SPEECH, Contender, Effort, Row, compare
from bench.parts import Parts
from bench.resources import Resources
from bench.worker import transcriptions, worker
from media_core.decoding import BytesSource
from media_core.decoding.pool import DecodingPool
from media_core.examination.thumbnails import make_thumbnail
from media_workers.settings import WhisperSettings

FIXTURE = Path(__file__).parents[2] / "tests" / "fixtures" / "whisper-tiny-words"


async def thumbnails(parts: Parts, effort: Effort) -> list[Row]:
    photo = _photo()
    used = Resources.own()
    async with DecodingPool(processes=1) as pool:
        await pool.warm()

        async def ours() -> float:
            for _ in range(effort.pictures):
                await make_thumbnail(pool, BytesSource(photo), "image/jpeg")
            return effort.pictures

        def bare() -> float:
            for _ in range(effort.pictures):
                image = Image.open(io.BytesIO(photo))
                image.draft(None, (1024, 1024))
                image.thumbnail((1024, 1024), Image.Resampling.LANCZOS, reducing_gap=2.0)
                image.save(io.BytesIO(), "WEBP", quality=80, method=2)
            return effort.pictures

        seen = await compare(
            effort.turns,
            {"ours": Contender(ours, used), "bare": Contender(bare, Resources.of(os.getpid()))},
        )
    legend = "the same Pillow calls without a limited child"
    return [Row("thumbnail of 12 megapixels", ITEMS, seen["ours"], "bare", seen["bare"], legend)]


def _photo() -> bytes:
    """A JPEG with the detail and grain of a camera's, about 4 MB."""
    noise = Image.frombytes("RGB", (100, 75), os.urandom(100 * 75 * 3)).resize((4000, 3000), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((4000, 3000), 24).convert("RGB")
    file = io.BytesIO()
    Image.blend(noise, grain, 0.2).save(file, "JPEG", quality=85)
    return file.getvalue()


async def transcription(parts: Parts, effort: Effort) -> list[Row]:
    recording = FIXTURE / "samples" / "long_en.m4a"
    seconds = float(json.loads((FIXTURE / "samples" / "transcripts.json").read_text())[recording.name]["duration"])
    # The fixture's model learned from short recordings.
    settings = WhisperSettings(model=str(FIXTURE / "model"), chunk_seconds=12, local_files_only=True)
    model = WhisperModel(settings.model, device="cpu", compute_type=settings.compute_type, local_files_only=True)
    content = recording.read_bytes()
    with parts.tenant.client() as client:
        media_id = name_in(client.upload([content], len(content)))
    payload = {"sha256": hashlib.sha256(content).hexdigest(), "media_id": media_id, "language": "en"}
    async with worker(parts.tenant) as one:
        task = transcriptions(settings)

        async def queue_again() -> None:
            await one.queue_transcription(payload)

        async def ours() -> float:
            await one.drain(task)
            return seconds

        async def check() -> None:
            await one.check(1)

        def bare() -> float:
            segments, _ = model.transcribe(
                str(recording), language="en", vad_filter=True, condition_on_previous_text=False
            )
            assert list(segments)
            return seconds

        seen = await compare(
            effort.turns,
            {"ours": Contender(ours, one.used, check, queue_again), "bare": Contender(bare, Resources.of(os.getpid()))},
        )
    legend = "faster-whisper on the file, with the same options. The model is tiny (2.6 MB)"
    return [Row(f"transcription, {seconds:.0f} s of speech", SPEECH, seen["ours"], "bare", seen["bare"], legend)]
