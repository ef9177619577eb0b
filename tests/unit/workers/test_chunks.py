"""Where recordings are cut for the speech model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_workers.speech.chunks import (
    FRAME,
    SECONDS_PER_FRAME,
    Chunk,
    Flags,
    clear,
    cut,
    frames,
    parts,
    silent,
    snapped,
    traced,
    voiced,
)

LONGEST = 10.0


def speech(*seconds: float) -> Flags:
    """Silence and voice by turns, beginning with silence."""
    return np.concatenate([np.full(frames(each), number % 2 == 1) for number, each in enumerate(seconds)])


def test_chunks_are_cut_in_pauses_and_leave_long_silence_out() -> None:
    voice = speech(1, 4, 1, 4, 60, 5, 1)
    found = cut(voice, first=0, last=True, most=4, longest=LONGEST)
    seconds = [
        [round(frame * SECONDS_PER_FRAME, 1) for piece in chunk.pieces for frame in piece] for chunk in found.chunks
    ]
    assert seconds == [[0.6, 5.4, 5.6, 10.4], [69.6, 75.4]]
    assert (found.following, found.full) == (len(voice), True)


def test_a_cut_lies_in_the_last_long_pause_rather_than_between_two_words() -> None:
    voice = speech(0, 7, 0.6, 2, 0.15, 5)
    [chunk] = cut(voice, first=0, last=True, most=1, longest=LONGEST).chunks
    assert chunk.pieces[-1][1] == frames(7.3)


def test_who_speaks_without_a_pause_is_cut_where_the_model_hears_no_more() -> None:
    found = cut(speech(0, 25), first=0, last=True, most=4, longest=LONGEST)
    assert [chunk.frames for chunk in found.chunks] == [frames(10), frames(10), frames(25) - 2 * frames(10)]


def test_a_voice_at_the_windows_end_is_left_to_the_next_window() -> None:
    assert cut(speech(60), first=0, last=False, most=2, longest=LONGEST).following == frames(59)
    found = cut(speech(1, 3, 50, 3), first=0, last=False, most=2, longest=LONGEST)
    assert frames(4) < found.following < frames(54)
    assert not found.full
    late = cut(speech(50, 5), first=0, last=False, most=2, longest=LONGEST)
    assert (late.chunks, late.following) == ((), frames(50) - frames(0.4))


def test_everything_is_heard_on_request_if_there_is_a_voice_at_all() -> None:
    voice = speech(4, 1, 4)
    [chunk] = cut(voice, first=0, last=True, most=2, longest=LONGEST, everything=True).chunks
    assert chunk.pieces == ((0, len(voice)),)
    assert cut(speech(9), first=0, last=True, most=2, longest=LONGEST, everything=True).chunks == ()


@given(
    st.lists(st.floats(0, 12), min_size=1, max_size=20),
    st.integers(1, 3),
    st.integers(0, 30),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_no_voice_is_lost_or_heard_twice(
    seconds: list[float], most: int, first: int, last: bool, everything: bool, apart: bool
) -> None:
    voice = speech(*seconds, 2)
    first = min(first, len(voice))
    found = cut(voice, first=first, last=last, most=most, longest=LONGEST, everything=everything, apart=apart)
    heard = np.zeros(len(voice), int)
    for chunk in found.chunks:
        assert 0 < chunk.frames <= frames(LONGEST)
        for since, until in chunk.pieces:
            heard[since:until] += 1
    assert heard.max(initial=0) <= 1
    assert not voice[first : found.following][heard[first : found.following] == 0].any()
    assert not heard[:first].any()
    assert not heard[found.following :].any()
    assert found.following > first or (last and first == len(voice))


@given(st.lists(st.floats(0.1, 12), min_size=5, max_size=40), st.integers(1, 3))
def test_whoever_begins_at_a_cut_finds_the_same_cuts_after_it(seconds: list[float], most: int) -> None:
    voice = speech(*seconds, 2)
    whole = cut(voice, first=0, last=True, most=100, longest=LONGEST).chunks
    at, found = 0, []
    while at < len(voice):
        part = cut(voice, first=at, last=True, most=most, longest=LONGEST)
        found += part.chunks
        at = part.following
    assert tuple(found) == whole


def test_what_pauses_divide_may_be_kept_apart() -> None:
    found = cut(speech(1, 2, 1.5, 2, 0.5, 2, 1), first=0, last=True, most=9, longest=LONGEST, apart=True)
    assert [len(chunk.pieces) for chunk in found.chunks] == [1, 1]


def test_a_moment_of_a_chunk_is_found_in_its_window() -> None:
    chunk = Chunk(((10, 20), (50, 60)))
    second = SECONDS_PER_FRAME
    assert len(chunk.of(np.zeros(100 * FRAME, np.float32))) == 20 * FRAME
    assert np.isclose(chunk.placed(5 * second), 15 * second)
    assert np.isclose(chunk.placed(10 * second), 50 * second)
    assert np.isclose(chunk.placed(10 * second, ends=True), 20 * second)
    assert np.isclose(chunk.placed(12 * second), 52 * second)
    assert np.isclose(chunk.placed(99 * second), 60 * second)


def test_a_words_times_do_not_reach_into_silence() -> None:
    voice = speech(1, 1, 2, 1)
    start, end = snapped(voice, 0.5, 4.1)
    assert (round(start, 1), round(end, 1)) == (1.0, 2.0)
    assert snapped(voice, 1.3, 1.6) == (1.3, 1.6)
    assert snapped(voice, 2.5, 3.0) == (2.5, 3.0)


def apart(heard: list[tuple[float, float]], voice: Flags) -> list[list[float]]:
    """Beginning and end of the parts in seconds."""
    found = parts(Chunk(((0, len(voice)),)), heard, voice)
    return [[round(frame * SECONDS_PER_FRAME, 1) for frame in part.pieces[0]] for part in found]


def test_a_word_that_lasts_too_long_is_heard_apart_from_what_is_around_it() -> None:
    voice = speech(0.5, 2, 0.5, 3, 0.5, 2, 0.5)
    assert apart([(0.5, 1.5), (1.5, 2.5), (3.0, 6.6), (6.6, 8.5)], voice) == [[0, 2.8], [2.8, 6.3], [6.3, 9]]
    assert apart([(0.5, 1.5), (1.5, 2.5), (3.0, 4.2), (4.2, 5.5), (5.5, 7.3), (7.3, 8.5)], voice) == []


def test_what_is_said_before_the_first_word_or_behind_the_last_one_is_heard_apart() -> None:
    voice = speech(0.5, 2, 0.5, 2, 0.5)
    assert apart([(0.5, 1.5), (1.5, 2.5)], voice) == apart([(3.0, 4.0), (4.0, 5.0)], voice) == [[0, 2.8], [2.8, 5.5]]


def test_one_word_for_a_whole_chunk_leaves_nothing_to_be_heard_apart() -> None:
    assert apart([(0.0, 3.0)], speech(0, 3)) == apart([], speech(0, 3)) == []


@given(st.lists(st.floats(0, 4), min_size=1, max_size=20), st.lists(st.floats(0, 1), max_size=40))
def test_parts_are_the_whole_chunk_in_order(seconds: list[float], moments: list[float]) -> None:
    voice = speech(*seconds, 2)
    pieces = tuple(
        piece for found in cut(voice, first=0, last=True, most=1, longest=60).chunks for piece in found.pieces
    )
    if not pieces:
        return
    end = len(voice) * SECONDS_PER_FRAME
    placed = sorted(moment * end for moment in moments)
    found = parts(Chunk(pieces), list(zip(placed[::2], placed[1::2], strict=False)), voice)
    assert len(found) != 1
    heard = [frame for part in found for since, until in part.pieces for frame in range(since, until)]
    assert not found or heard == [frame for since, until in pieces for frame in range(since, until)]


def test_a_voice_goes_on_until_it_falls_clearly() -> None:
    probabilities = np.array([0.4, 0.6, 0.4, 0.3, 0.4, 0.6], np.float32)
    assert clear(probabilities).tolist() == [False, True, True, False, False, True]
    assert traced(probabilities).all()


def test_of_a_clear_voice_the_clear_part_is_heard() -> None:
    probabilities = np.array([0.3, *[0.9] * 20, 0.3, 0.2, 0.05], np.float32)
    assert np.flatnonzero(voiced(probabilities)).tolist() == list(range(1, 21))


def test_a_voice_that_is_not_clear_everywhere_is_heard_as_far_as_there_is_a_trace_of_it() -> None:
    silence = [0.05] * 10
    telephone = [0.25, 0.15, 0.3, 0.4, 0.2, 0.55, 0.3, 0.15]
    noise = [0.25, 0.28, 0.15, 0.28]
    probabilities = np.array([*silence, *telephone, *silence, *noise, *silence, *noise], np.float32)
    heard = [len(part) for part in (silence, telephone, silence, noise, silence, noise)]
    expected = np.repeat([False, True, False, False, False, True], heard)  # the last may go on in the next window
    assert voiced(probabilities).tolist() == expected.tolist()
    assert np.flatnonzero(clear(probabilities)).tolist() == [15]


def test_a_stretch_with_moments_of_a_voice_is_listened_to_again_if_a_sentence_fits_in() -> None:
    voice = speech(1, 4, 1, 0.4, 1, 3, 1.2, 2, 2)
    since, until = frames(5), frames(7.4)
    found = silent(voice.astype(np.float32))
    assert [len(voice[:since]), len(voice[:until])] == pytest.approx(found[0], abs=2)
    assert found[1:] == [(len(voice) - frames(2), len(voice))]
