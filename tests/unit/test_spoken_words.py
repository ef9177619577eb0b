import pytest

from media_core.passages import passages
from media_core.search import EXAMINED, RANKED, Windows
from media_core.spoken_words import words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Don't pay 3.5%", ["don", "t", "pay", "3", "5"]),
        ("L'Été, naïve Œuvre", ["l", "ete", "naive", "oeuvre"]),
        ("Straße ŁÓDŹ Đà Nẵng", ["strasse", "lodz", "da", "nang"]),
        ("cafe\N{COMBINING ACUTE ACCENT}!", ["cafe"]),
        ("Мой край", ["мой", "край"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("世界 abc", ["世", "界", "abc"]),
        ("'); DROP TABLE 'passage\\", ["drop", "table", "passage"]),
        ("\uff76\uff9e あ\uff9e \uff9e", ["ガ", "あ\u3099"]),  # halfwidth sound marks
        ("…!", []),
    ],
)
def test_words_are_compared_without_case_and_accents(text: str, said: list[str]) -> None:
    assert [word.folded for word in words(text)] == said


def test_no_letter_of_unicode_makes_a_word_that_postgresql_cannot_take() -> None:
    letters = [letter for letter in map(chr, range(0x110000)) if letter.isalnum()]
    said = [word.folded for letter in letters for word in words(letter)]
    assert not [folded for folded in said if not folded or set(folded) & set("'\\\0")]


def test_a_word_knows_its_place_in_the_text() -> None:
    text = "Grüße, cafe\N{COMBINING ACUTE ACCENT}!"
    assert [text[word.first : word.behind] for word in words(text)] == ["Grüße", "cafe\N{COMBINING ACUTE ACCENT}"]


def test_a_passage_has_a_minute_and_the_beginning_of_the_next() -> None:
    segments = [{"id": n, "start": n * 9.0, "end": n * 9.0 + 9, "text": f"number {n}"} for n in range(14)]
    found = passages(segments, "en")
    assert [(passage.own, passage.segments[0][0], passage.segments[-1][0]) for passage in found] == [
        (6, 0, 6),
        (6, 6, 12),
        (2, 12, 13),
    ]


def test_another_language_begins_another_passage() -> None:
    segments = [
        {"id": 0, "start": 0.0, "end": 2.0, "text": "Guten Tag"},
        {"id": 1, "start": 2.0, "end": 4.0, "text": "Good day", "language": "en"},
    ]
    assert [(passage.language, passage.own) for passage in passages(segments, "de")] == [("de", 1), ("en", 1)]


@pytest.mark.parametrize("newest", [0, 1, 63, 64, 1023, 1024, 5000, 16_384, 300_000, 2**18 * 20 + 12345])
@pytest.mark.parametrize("found_each", [0, 1, 40])
def test_windows_cover_every_transcript_once_from_the_newest_on(newest: int, found_each: int) -> None:
    windows = Windows(newest)
    steps = 0
    behind: int | None = None
    while keys := windows.next(min(steps * found_each, 900), 0):
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
    windows = Windows(newest)
    examined, steps = 0, 0
    behind = newest + 1
    while examined < EXAMINED and examined * shown < RANKED and (keys := windows.next(examined, int(examined * shown))):
        steps += 1
        first = min(key >> 3 << {1: 6, 2: 10, 3: 14, 4: 18}[key & 7] for key in keys)
        examined += int((behind - first) / hours_a_match)
        behind = first
    assert steps <= 6
    assert examined < 1.5 * EXAMINED + 64 / hours_a_match or steps == 1
