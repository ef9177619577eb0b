import json

from media_core.transcripts import formats


def segment(start: float, end: float, text: str, number: int = 0) -> dict[str, object]:
    return {"id": number, "start": start, "end": end, "text": text}


TALK = formats.result(
    [
        segment(0.3, 2.49, "good evening team", 0),
        segment(3599.9996, 3601.5, "R&D ---> <b>sales</b>", 1),
        segment(360_000, 360_000, "a hundred\n\nhours", 2),
    ],
    "en",
    360_001.23456,
)


def test_a_result_has_the_published_fields_and_the_text_on_one_line() -> None:
    assert formats.result([segment(0, 1, "hello"), segment(1, 2, "world", 1)], "en", 2.00049) == {
        "transcript": "hello world",
        "segments": [segment(0, 1, "hello"), segment(1, 2, "world", 1)],
        "language": "en",
        "duration": 2.0,
    }


def test_languages_without_spaces_are_joined_without_spaces() -> None:
    assert formats.transcript([segment(0, 1, "你好"), segment(1, 2, "世界")], "zh") == "你好世界"


def test_silence_is_an_empty_transcript_in_every_format() -> None:
    silence = formats.result([], None, 3.0)
    assert silence["transcript"] == ""
    assert formats.txt(silence) == ""
    assert formats.srt(silence) == ""
    assert formats.vtt(silence) == "WEBVTT\n"
    assert json.loads(formats.as_json(silence)) == silence


def test_text_has_one_line_a_segment() -> None:
    assert formats.txt(TALK) == "good evening team\nR&D ---> <b>sales</b>\na hundred hours\n"


def test_srt_counts_hours_past_99_and_keeps_arrows_out_of_the_text() -> None:
    assert formats.srt(TALK) == (
        "1\n"
        "00:00:00,300 --> 00:00:02,490\n"
        "good evening team\n"
        "\n"
        "2\n"
        "01:00:00,000 --> 01:00:01,500\n"
        "R&D -> <b>sales</b>\n"
        "\n"
        "3\n"
        "100:00:00,000 --> 100:00:00,001\n"
        "a hundred hours\n"
    )


def test_vtt_escapes_what_it_would_take_for_markup() -> None:
    assert formats.vtt(TALK) == (
        "WEBVTT\n"
        "\n"
        "00:00:00.300 --> 00:00:02.490\n"
        "good evening team\n"
        "\n"
        "01:00:00.000 --> 01:00:01.500\n"
        "R&amp;D ---&gt; &lt;b&gt;sales&lt;/b&gt;\n"
        "\n"
        "100:00:00.000 --> 100:00:00.001\n"
        "a hundred hours\n"
    )


def test_json_is_the_result_itself_in_readable_characters() -> None:
    rendered = formats.as_json(formats.result([segment(0, 1, "fünf")], "de", 1.0))
    assert "fünf" in rendered
    assert json.loads(rendered)["segments"] == [segment(0, 1, "fünf")]


def test_every_format_has_a_media_type_and_renders_the_same_result() -> None:
    assert {name: media_type for name, (media_type, _) in formats.FORMATS.items()} == {
        "json": "application/json",
        "txt": "text/plain; charset=utf-8",
        "srt": "application/x-subrip; charset=utf-8",
        "vtt": "text/vtt; charset=utf-8",
    }
    assert all("good evening team" in render(TALK) for _, render in formats.FORMATS.values())
