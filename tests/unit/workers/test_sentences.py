"""Words with times become sentences."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from media_workers.speech.sentences import LONGEST_SECONDS, Word, divided


def words(text: str, *, gaps: dict[int, float] | None = None, start: float = 0.0) -> list[Word]:
    """One word each 0.3 s; `gaps`: seconds of silence before a word, by its number."""
    made = []
    for number, word in enumerate(text.split()):
        start += (gaps or {}).get(number, 0.0)
        made.append(Word(f" {word}", start, start + 0.3, 0.9))
        start += 0.3
    return made


def texts(segments: list[list[Word]]) -> list[str]:
    return ["".join(word.text for word in segment).strip() for segment in segments]


def test_segments_are_sentences() -> None:
    said = words('He left. "Did Mr. Smith see it?" Nobody knew, e.g. in the U.S. at 3.5 percent')
    whole, rest = divided(said, until=said[-1].end)
    assert texts(whole) == ["He left.", '"Did Mr. Smith see it?"']
    assert texts([rest]) == ["Nobody knew, e.g. in the U.S. at 3.5 percent"]
    assert texts(divided(said)[0])[-1] == texts([rest])[0]


def test_a_sentence_that_goes_on_is_kept_until_it_ends() -> None:
    begun = words("So we went")
    assert divided(begun, until=1.0) == ([], begun)
    whole, rest = divided([*begun, *words("home. Then", start=1.0)], until=1.6)
    assert (texts(whole), texts([rest])) == (["So we went home."], ["Then"])


def test_a_long_pause_ends_a_segment_too() -> None:
    said = words("well. I thought that it was late", gaps={4: 2.0})
    assert texts(divided(said)[0]) == ["well.", "I thought that", "it was late"]
    assert divided(words("I thought"), until=9.0)[1] == []


def test_without_punctuation_short_pauses_divide() -> None:
    assert texts(divided(words("hello world good morning", gaps={2: 0.5}))[0]) == ["hello world", "good morning"]
    assert texts(divided(words("hello, world good. Morning", gaps={1: 0.5}))[0]) == ["hello, world good.", "Morning"]


def test_languages_without_spaces_are_divided_at_their_own_full_stops() -> None:
    said = [Word(letter, at / 5, at / 5 + 0.2, 1.0) for at, letter in enumerate("你好。再见！")]
    assert texts(divided(said)[0]) == ["你好。", "再见！"]


@given(
    st.lists(st.sampled_from(["a", "b.", "C?", "Dr.", "…", "e,"]), max_size=60),
    st.lists(st.floats(0, 5), min_size=60, max_size=60),
    st.none() | st.just(1e9) | st.just(0.0),
)
def test_no_word_is_lost_and_none_moves(said: list[str], gaps: list[float], until: float | None) -> None:
    given_words = words(" ".join(said), gaps=dict(enumerate(gaps)))
    whole, rest = divided(given_words, until=until)
    assert [*chain.from_iterable(whole), *rest] == given_words
    assert all(segment for segment in whole)
    assert all(segment[-1].end - segment[0].start <= LONGEST_SECONDS or len(segment) == 1 for segment in whole)
    if until is None:
        assert rest == []
