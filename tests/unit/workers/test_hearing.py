"""Which of several doubtful texts of a chunk is believed."""

from dataclasses import replace

import pytest

from media_workers.speech.hearing import Hearing, Text

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


# What is said in ten to thirty seconds.
TALKS = {
    "en": "The meeting begins at nine in the morning. Please bring the documents and your passport. We will travel by "
    "train to the coast. The weather is very nice today and the sky is clear.",
    "hi": "बैठक सुबह नौ बजे शुरू होती है। कृपया दस्तावेज़ और अपना पासपोर्ट लाएँ। हम ट्रेन से समुद्र तट तक जाएँगे। मौसम आज बहुत अच्छा है और "
    "आसमान साफ़ है। बच्चे बगीचे में खेल रहे हैं। मेरी बहन कल दिल्ली से आई थी और उसने सबके लिए मिठाई और नए कपड़े लाए। पिताजी ने कहा कि "
    "अगले साल हम सब मिलकर पहाड़ों पर घूमने जाएँगे, जहाँ बर्फ़ गिरती है। "
    "माँ ने पूछा कि हम कितने दिन वहाँ रहेंगे और साथ में क्या लेकर जाएँगे।",
    "ta": "கூட்டம் காலை ஒன்பது மணிக்கு தொடங்குகிறது. தயவுசெய்து ஆவணங்களையும் உங்கள் கடவுச்சீட்டையும் கொண்டு வாருங்கள். "
    "நாங்கள் ரயிலில் கடற்கரைக்குச் செல்வோம். இன்று வானிலை மிகவும் நன்றாக உள்ளது. குழந்தைகள் தோட்டத்தில் விளையாடுகிறார்கள்.",
    "ka": "შეხვედრა იწყება დილის ცხრა საათზე. გთხოვთ თან იქონიოთ დოკუმენტები და თქვენი პასპორტი. ჩვენ მატარებლით "
    "ვიმგზავრებთ ზღვისკენ. დღეს ძალიან კარგი ამინდია და ცა მოწმენდილია. ბავშვები ბაღში თამაშობენ. "
    "ჩემი და გუშინ ჩამოვიდა თბილისიდან და ყველას ტკბილეული მოუტანა.",
}


@pytest.mark.parametrize("language", TALKS)
def test_no_script_makes_a_text_look_repeated(language: str) -> None:
    said = Text([1], TALKS[language], -0.3, 0.1)
    assert not said.is_doubtful
    assert replace(said, written=f"{said.written} " * 4).is_doubtful


def test_a_quick_text_is_believed_where_the_model_is_sure_of_it() -> None:
    clear = replace(SURE, probability=-0.1)
    assert Heard(clear).texts(None, [16_000], quickly=True) == [clear]  # type: ignore[arg-type]
    for doubtful in (SURE, replace(SAID_TWICE, probability=-0.06)):
        assert Heard(doubtful, FREE).texts(None, [16_000], quickly=True) == [FREE]  # type: ignore[arg-type]
    assert Heard(FREE).texts(None, [16_000]) == [FREE]  # type: ignore[arg-type]
