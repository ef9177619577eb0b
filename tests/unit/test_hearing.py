"""Which of several doubtful texts of a chunk is believed."""

import pytest

from media_workers.hearing import Hearing, Text

SAID_TWICE = Text([1], "He was not an ill disposed young man. " * 4, -0.06, 0.3)
ENDLESS = Text([1], "you " * 200, -0.02, 0.3, ended=False)
FREE = Text([1], "Rabbi Richard. Mr. John Denberg would then", -1.9, 0.3)
SURE = Text([1], "He was not an ill disposed young man.", -0.4, 0.3)


class Heard(Hearing):
    """Hears these texts, one after the other."""

    def __init__(self, *texts: Text) -> None:
        self._texts = list(texts)

    def _generated(self, sound: object, samples: int, **options: object) -> list[Text]:
        return [self._texts.pop(0)]


@pytest.mark.parametrize(
    ("first", "warmer", "believed"),
    [
        (SAID_TWICE, [SAID_TWICE, SURE], SURE),
        (SAID_TWICE, [SAID_TWICE] * 4 + [FREE], SAID_TWICE),
        (ENDLESS, [ENDLESS] * 4 + [FREE], FREE),
        (ENDLESS, [ENDLESS] * 5, ENDLESS),
    ],
)
def test_a_repeated_sentence_is_believed_before_what_the_model_makes_up(
    first: Text, warmer: list[Text], believed: Text
) -> None:
    assert Heard(*warmer).again(None, 16_000, first) is believed  # type: ignore[arg-type]
