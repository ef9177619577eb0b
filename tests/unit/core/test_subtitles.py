"""Subtitles that people can read: two lines, 42 columns, seven seconds, no word divided."""

import itertools
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_core.transcripts import formats
from media_core.transcripts.subtitles import Cue, Shape, cues

MONOLOGUE = (
    "So what I would like to talk about today is the garden behind the house, which has grown for twenty years. "
    "Nobody has cut a single hedge since, and the roses have climbed up to the roof."
)


def segment(text: str, start: float, end: float, words: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"id": 0, "start": start, "end": end, "text": text} | ({"words": words} if words is not None else {})


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def shaped(found: list[Cue]) -> bool:
    times = [moment for cue in found for moment in (cue.start, cue.end)]
    return times == sorted(times) and all(
        1 <= len(cue.lines) <= 2 and max(map(columns, cue.lines)) <= 42 and cue.end - cue.start <= 7.0001
        for cue in found
    )


def test_what_fits_is_a_cue_as_it_is() -> None:
    assert list(cues([segment("good evening team", 0.3, 2.49)], "en")) == [Cue(0.3, 2.49, ("good evening team",))]


def test_a_monologue_of_thirty_seconds_is_shaped() -> None:
    found = list(cues([segment(MONOLOGUE, 10.0, 40.0)], "en"))
    assert shaped(found)
    assert " ".join(line for cue in found for line in cue.lines) == MONOLOGUE
    assert (found[0].start, found[-1].end) == (10.0, 40.0)
    # In proportion to the letters.
    for cue, following in itertools.pairwise(found):
        said = MONOLOGUE.index(following.lines[0])
        assert following.start == pytest.approx(10 + 30 * said / len(MONOLOGUE), abs=0.01)
        assert cue.end <= following.start


def test_words_say_when_they_are_said() -> None:
    spoken = MONOLOGUE.split()
    words = [
        {"word": word, "start": 10 + number * 0.4, "end": 10.3 + number * 0.4, "probability": 1.0}
        for number, word in enumerate(spoken)
    ]
    found = list(cues([segment(MONOLOGUE, 10.0, 40.0, words)], "en"))
    assert shaped(found)
    number = 0
    for cue in found:
        assert cue.start == words[number]["start"]
        number += len(" ".join(cue.lines).split())
        assert cue.end == words[number - 1]["end"]
    assert number == len(spoken)


def test_a_word_that_is_stored_in_parts_stays_whole() -> None:
    text = "This is a well-known, much-loved and often-repeated story of a state-of-the-art greenhouse, isn't it?"
    parts = [
        *("This", "is", "a", "well", "-known,", "much", "-loved", "and", "often", "-repeated", "story", "of", "a"),
        *("state", "-of", "-the", "-art", "greenhouse,", "isn't", "it?"),
    ]
    words = [{"word": part, "start": n * 0.5, "end": n * 0.5 + 0.5, "probability": 1.0} for n, part in enumerate(parts)]
    found = list(cues([segment(text, 0, 10, words)], "en"))
    assert shaped(found)
    assert " ".join(line for cue in found for line in cue.lines) == text


def test_two_lines_are_about_equally_long() -> None:
    (found,) = cues([segment("the roses have climbed up to the roof of the house", 0, 3)], "en")
    assert found.lines == ("the roses have climbed up", "to the roof of the house")


def test_a_cue_ends_with_its_sentence() -> None:
    text = "The first of the sentences has just about so many words. The second has some more words than the first had."
    first, *_ = cues([segment(text, 0, 6)], "en")
    assert " ".join(first.lines) == "The first of the sentences has just about so many words."


def test_a_few_words_in_a_long_stretch_do_not_stay_for_its_length() -> None:
    found = list(cues([segment("yes no", 0, 30)], "en"))
    assert [cue.lines for cue in found] == [("yes",), ("no",)]
    assert all(cue.end - cue.start <= 7 for cue in found)


def test_a_word_longer_than_a_line_is_not_divided() -> None:
    address = "https://example.org/" + "a" * 60
    found = list(cues([segment(f"it is at {address} as I said", 0, 5)], "en"))
    assert any(line == address for cue in found for line in cue.lines)


def test_chinese_takes_two_columns_a_character_and_no_line_begins_with_a_closing_sign() -> None:
    text = "今天我想谈谈房子后面的花园，它已经生长了二十年。从那以后没有人修剪过一个树篱，玫瑰已经爬到了屋顶上。" * 2
    found = list(cues([segment(text, 0, 25)], "zh"))
    assert shaped(found)
    assert "".join(line for cue in found for line in cue.lines) == text
    assert not any(line[0] in "，。" for cue in found for line in cue.lines)


@given(
    text=st.text(max_size=300),
    start=st.floats(0, 10_000),
    seconds=st.floats(0, 60),
    language=st.sampled_from(["en", "zh", "th", None]),
)
def test_no_text_is_lost_or_out_of_order(text: str, start: float, seconds: float, language: str | None) -> None:
    found = list(cues([segment(text, start, start + seconds)], language))
    assert "".join("".join(cue.lines) for cue in found).replace(" ", "") == "".join(text.split())
    assert all(cue.start <= cue.end <= cue.start + 7.001 and len(cue.lines) <= 2 for cue in found)
    assert all(before.start <= after.start for before, after in itertools.pairwise(found))
    formats.srt({"segments": [segment(text, start, start + seconds)], "language": language})


@given(st.lists(st.sampled_from([0.0, 0.0004, 0.3, 2.0]), min_size=1, max_size=20), st.sampled_from([0.5, 7.0]))
def test_each_cue_takes_time_and_begins_when_the_last_one_has_ended(lengths: list[float], seconds: float) -> None:
    moments = [0.0, *itertools.accumulate(lengths)]
    segments = [
        segment("yes.", start, end, [{"word": "yes.", "start": start, "end": end, "probability": 1.0}])
        for start, end in itertools.pairwise(moments)
    ]
    said = formats.srt({"segments": segments, "language": "en"}, Shape(seconds=seconds))
    clock = r"(\d\d):(\d\d):(\d\d),(\d{3})"
    times = [
        tuple(int(here[at]) * 60_000 + int(here[at + 1]) * 1000 + int(here[at + 2]) for at in (1, 5))
        for here in re.findall(f"^{clock} --> {clock}$", said, re.MULTILINE)
    ]
    assert len(times) == len(lengths)
    assert all(start < end for start, end in times)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("seconds", [4.7, 7.0])
def test_a_segment_of_up_to_seven_seconds_is_a_cue_as_it_is_unless_a_shape_is_asked_for(seconds: float) -> None:
    said = "good evening team please open the new report and then upload the photo of the garden again"
    result = {"segments": [segment(said, 1.0, 1.0 + seconds), segment("thank you", 9.0, 9.5)], "language": "en"}
    end = f"00:00:0{1 + seconds:.3f}"
    assert formats.srt(result) == (
        f"1\n00:00:01,000 --> {end.replace('.', ',')}\n{said}\n\n2\n00:00:09,000 --> 00:00:09,500\nthank you\n"
    )
    assert formats.vtt(result).startswith(f"WEBVTT\n\n00:00:01.000 --> {end}\n{said}\n\n00:00:09.000 --> ")
    assert formats.srt(result, Shape()).count(" --> ") == 3


@pytest.mark.parametrize("start", [1.14, 1.96])
def test_a_segment_of_seven_seconds_is_not_longer_for_how_numbers_are_stored(start: float) -> None:
    said = "good evening team please open the new report"
    seven = segment(said, start, round(start + 7, 3))
    assert seven["end"] - seven["start"] > 7
    result = {"segments": [seven], "language": "en"}
    assert f"\n{said}\n" in formats.srt(result)
    assert formats.srt(result, Shape()).count(" --> ") == 1


def test_one_segment_of_more_than_seven_seconds_gives_all_of_its_transcript_the_shape_of_subtitles() -> None:
    said = "good evening team please open the new report"
    long = segment(MONOLOGUE, 5.0, 35.0)
    result = {"segments": [segment(said, 1.0, 4.0), long], "language": "en"}
    assert "\ngood evening team please\nopen the new report\n" in formats.srt(result)
    assert formats.srt(result) == formats.srt(result, Shape())


def test_both_formats_have_the_cues() -> None:
    result = formats.result([segment(MONOLOGUE, 0.0, 30.0)], "en", 30.0)
    count = len(list(cues(result["segments"], "en")))
    assert formats.srt(result).count(" --> ") == formats.vtt(result).count(" --> ") == count
    assert formats.txt(result) == MONOLOGUE + "\n"


SENTENCE = "one two three four five six seven eight nine ten"
TIMED = {
    "id": 0,
    "start": 0.0,
    "end": 10.0,
    "text": SENTENCE,
    "words": [
        {"word": word, "start": float(place), "end": place + 0.8, "probability": 1.0}
        for place, word in enumerate(SENTENCE.split())
    ],
}


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        (Shape(columns=20, lines=1, seconds=60), [("one two three four",), ("five six seven eight",), ("nine ten",)]),
        (Shape(columns=20, lines=2, seconds=60), [("one two three four", "five six seven eight"), ("nine ten",)]),
        (
            Shape(columns=200, lines=1, seconds=3),
            [("one two three",), ("four five six",), ("seven eight nine",), ("ten",)],
        ),
    ],
)
def test_cues_have_the_shape_that_was_asked_for(shape: Shape, shown: list[tuple[str, ...]]) -> None:
    found = list(cues([TIMED], "en", shape))
    assert [cue.lines for cue in found] == shown
    assert [cue.start for cue in found] == [float(SENTENCE.split().index(lines[0].split()[0])) for lines in shown]


def test_highlights_are_the_times_of_the_words() -> None:
    result = {"segments": [TIMED], "language": "en"}
    cue = formats.vtt(result, Shape(columns=20, lines=2, seconds=60), highlights=True).split("\n\n")[1]
    assert cue == (
        "00:00:00.000 --> 00:00:07.800\n"
        "one <00:00:01.000>two <00:00:02.000>three <00:00:03.000>four\n"
        "<00:00:04.000>five <00:00:05.000>six <00:00:06.000>seven <00:00:07.000>eight"
    )
    untimed = {"segments": [{**TIMED, "words": None}], "language": "en"}
    assert formats.vtt(untimed, highlights=True) == formats.vtt(untimed)


def test_a_speaker_is_named_and_never_markup() -> None:
    result = {"segments": [{**TIMED, "speaker": "a <b>"}], "language": "en"}
    assert "\n<v a &lt;b&gt;>one" in formats.vtt(result)
    assert "\na <b>: one" in formats.srt(result)
