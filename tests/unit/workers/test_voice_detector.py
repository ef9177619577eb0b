"""Where the detector hears a voice."""

import numpy as np
import pytest
from faster_whisper.vad import get_vad_model

from media_workers.speech.chunks import FRAME, SAMPLE_RATE
from media_workers.speech.whisper import _detected


@pytest.mark.parametrize("seconds", [0, 0.01, 1, 40.02])
def test_a_window_that_is_heard_part_by_part_is_as_if_heard_at_once(seconds: float) -> None:
    at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    vowel = sum(np.sin(2 * np.pi * 120 * overtone * at) / overtone for overtone in range(1, 20))
    said = (0.2 * vowel * (np.sin(2 * np.pi * 0.7 * at) > 0)).astype(np.float32)
    found = _detected(said)
    assert len(found) == -(-len(said) // FRAME)
    if len(said):
        # faster-whisper hears zeros at the end of the last frame.
        at_once = get_vad_model()(np.pad(said, (0, -len(said) % FRAME))).ravel()
        assert found[:-1] == pytest.approx(at_once[:-1], abs=1e-3)
