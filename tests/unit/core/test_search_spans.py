import pytest

from media_core.transcripts.search import EXAMINED, RANKED, Spans


@pytest.mark.parametrize("newest", [0, 1, 63, 64, 1023, 1024, 5000, 16_384, 300_000, 2**18 * 20 + 12345])
@pytest.mark.parametrize("found_each", [0, 1, 40])
def test_spans_cover_every_transcript_once_from_the_newest_on(newest: int, found_each: int) -> None:
    spans = Spans(newest)
    steps = 0
    behind: int | None = None
    while keys := spans.next(min(steps * found_each, 900), 0):
        steps += 1
        for key in keys:
            shift = {1: 6, 2: 10, 3: 14, 4: 18}[key & 7]
            first, last = key >> 3 << shift, ((key >> 3) + 1 << shift) - 1
            assert last >= newest if behind is None else last == behind - 1
            behind = first
    assert behind == 0
    assert steps <= 25


@pytest.mark.parametrize("hours_a_match", [0.1, 0.3, 2, 50, 700])
@pytest.mark.parametrize("newest", [100_000, 98_303, 16_385])
@pytest.mark.parametrize("shown", [1.0, 0.2])
def test_a_step_finds_what_is_missing_and_little_more(hours_a_match: float, newest: int, shown: float) -> None:
    spans = Spans(newest)
    examined, steps = 0, 0
    behind = newest + 1
    while examined < EXAMINED and examined * shown < RANKED and (keys := spans.next(examined, int(examined * shown))):
        steps += 1
        first = min(key >> 3 << {1: 6, 2: 10, 3: 14, 4: 18}[key & 7] for key in keys)
        examined += int((behind - first) / hours_a_match)
        behind = first
    assert steps <= 6
    assert examined < 1.5 * EXAMINED + 64 / hours_a_match or steps == 1
