"""The language of a chunk, where each may have its own."""

from collections import Counter

import pytest

from media_workers.speech.whisper import _spoken


@pytest.mark.parametrize(
    ("likely", "expected"),
    [
        ({"en": 0.95, "la": 0.02}, "en"),
        ({"fr": 0.51, "la": 0.22, "en": 0.2}, "fr"),
        # French that espeak-ng speaks, after English, as `base` hears it.
        ({"fr": 0.29, "la": 0.15, "he": 0.1, "en": 0.05}, "fr"),
        # A cough, or one word: none is much likelier than the language that was spoken before.
        ({"cy": 0.3, "en": 0.2, "nn": 0.1}, "en"),
    ],
)
def test_a_chunk_has_another_language_where_that_is_clear_or_far_likelier(
    likely: dict[str, float], expected: str
) -> None:
    assert _spoken(Counter(likely), "en") == expected  # type: ignore[arg-type]
