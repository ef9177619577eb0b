import pytest

from media_core.transcripts.passages import passages
from media_core.transcripts.spoken_words import words


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
    said = [word.folded for word in words(" ".join(letters))]
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
