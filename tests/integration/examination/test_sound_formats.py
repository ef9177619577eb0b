"""A sample of all containers, codecs, layouts and sample rates (`bench.matrix` has them all), by wrong names too."""

import itertools
import wave

import numpy as np
import pytest

from media_core.decoding import BytesSource
from media_core.decoding.pool import DecodingPool
from media_core.examination.media_types import transcribable
from tests.fixtures import librivox, media
from tests.fixtures.sound_formats import CONTAINERS, WRONG_NAMES, Cell, Named, NotWritten, Samples, likeness
from tests.integration.examination.test_kinds_of_media import looked_at
from tests.integration.transcripts.test_transcribe import SAMPLES, SPOKEN, Tenant, tenant, whisper  # noqa: F401  (fixtures)

SPEECH = "greeting_en.wav"
LATER = 1.5
"""Seconds."""

FORMATS = (
    ("wav", "pcm_u8", "mono", 8_000),
    ("wav", "flac", "5.1", 192_000),
    ("w64", "adpcm_ms", "stereo", 22_050),
    ("aiff", "pcm_f64be", "5.1", 192_000),
    ("au", "pcm_alaw", "mono", 8_000),
    ("caf", "alac", "stereo", 96_000),
    ("mp3", "libmp3lame", "stereo", 44_100),
    ("m4a", "aac", "5.1", 96_000),
    ("mka", "ac3", "5.1", 48_000),
    ("webm", "libopus", "5.1", 48_000),
    ("ogg", "vorbis", "stereo", 192_000),
    ("3ga", "libopencore_amrnb", "mono", 8_000),
    ("wma", "wmav2", "stereo", 44_100),
    ("mkv", "wavpack", "mono", 8_000),
    ("m2ts", "pcm_bluray", "stereo", 192_000),
    ("avi", "pcm_mulaw", "mono", 16_000),
)
CELLS = {
    str(cell): cell
    for (container, codec, layout, rate), wrong in zip(FORMATS, itertools.cycle(WRONG_NAMES), strict=False)
    for cell in [Cell(CONTAINERS[container], codec, layout, rate, wrong)]
}


@pytest.fixture(scope="module")
def spoken() -> Samples:
    with wave.open(str(SAMPLES / SPEECH)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


@pytest.mark.parametrize("name", CELLS)
async def test_a_sound_is_what_it_is_by_any_name_and_is_decoded_from_anywhere(
    decoding_pool: DecodingPool, spoken: Samples, name: str
) -> None:
    cell = CELLS[name]
    data = cell.written(spoken)
    right, wrong = [await looked_at(decoding_pool, data, *named) for named in (cell.container.right, cell.wrong)]
    assert right == wrong
    assert transcribable(right.mime_type)
    assert right.duration == pytest.approx(len(spoken) / 16_000, abs=0.2)
    for start in (0.0, LATER):
        window = await decoding_pool.run("audio_window", BytesSource(data), start=start, seconds=60.0)
        like, late = likeness(np.frombuffer(window, np.int16), spoken[round(start * 16_000) :], cell.rate)
        # AMR keeps how a voice sounds, not its waveform.
        assert like > (0.3 if cell.codec == "libopencore_amrnb" else 0.9)
        assert late == pytest.approx(0, abs=0.1)


async def test_what_is_said_is_written_down_whatever_it_is_kept_in(tenant: Tenant, spoken: Samples) -> None:  # noqa: F811
    heard = {name: CELLS[name] for name in list(CELLS)[1::2]}  # half of them: each costs half a second of CPU
    jobs = {name: await tenant.submit(await tenant.keep(cell.written(spoken))) for name, cell in heard.items()}
    await tenant.drain()
    for name, job_id in jobs.items():
        said = (await tenant.job(job_id)).result["transcript"]
        # The fixture's model never learned the sound of a telephone.
        wrong = librivox.word_error_rate(SPOKEN[SPEECH]["text"], said)
        assert wrong <= (0.4 if heard[name].rate == 8_000 else 0), (name, said)


async def test_what_is_said_in_a_later_one_of_joined_recordings_is_written_down(
    tenant: Tenant,  # noqa: F811
    spoken: Samples,
) -> None:
    silence = media.long_silence(0.08)
    said = Cell(CONTAINERS["ogg"], "libopus", "mono", 48_000, WRONG_NAMES[0]).written(spoken)
    result = await tenant.transcribe(silence + said)
    assert librivox.word_error_rate(SPOKEN[SPEECH]["text"], result["transcript"]) == 0
    assert result["segments"][0]["start"] == pytest.approx(288, abs=1.5)
    assert result["duration"] == pytest.approx(288 + len(spoken) / 16_000, abs=1)


def test_what_a_codec_cannot_hold_is_not_written(spoken: Samples) -> None:
    for container, codec, layout, rate in (
        ("mp3", "libmp3lame", "5.1", 48_000),
        ("mp3", "libmp3lame", "mono", 192_000),
        ("amr", "libopencore_amrnb", "mono", 16_000),
        ("ts", "flac", "mono", 48_000),
        ("flac", "aac", "mono", 48_000),
    ):
        with pytest.raises(NotWritten):
            Cell(CONTAINERS[container], codec, layout, rate, Named("a", "")).written(spoken)
