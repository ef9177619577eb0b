"""A transcript's formats: plain text, SubRip, WebVTT, JSON. Pure; the api serves them, the workers build the result.

A segment is `{"id", "start", "end", "text"}`, in seconds from the start of the recording. If they were asked for it
also has `"words"`: `[{"word", "start", "end", "probability"}]`, and `"language"`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from media_core.transcripts import subtitles

Segment = Mapping[str, Any]

_ARROW = re.compile("-{2,}>")
# Languages that Whisper writes without spaces between words; openai-whisper splits their words by character.
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})

_NAMES = (
    "af=afrikaans am=amharic ar=arabic as=assamese az=azerbaijani ba=bashkir be=belarusian bg=bulgarian "
    "bn=bengali bo=tibetan br=breton bs=bosnian ca=catalan cs=czech cy=welsh da=danish de=german el=greek "
    "en=english es=spanish et=estonian eu=basque fa=persian fi=finnish fo=faroese fr=french gl=galician "
    "gu=gujarati ha=hausa haw=hawaiian he=hebrew hi=hindi hr=croatian ht=haitian_creole hu=hungarian "
    "hy=armenian id=indonesian is=icelandic it=italian ja=japanese jw=javanese ka=georgian kk=kazakh km=khmer "
    "kn=kannada ko=korean la=latin lb=luxembourgish ln=lingala lo=lao lt=lithuanian lv=latvian mg=malagasy "
    "mi=maori mk=macedonian ml=malayalam mn=mongolian mr=marathi ms=malay mt=maltese my=myanmar ne=nepali "
    "nl=dutch nn=nynorsk no=norwegian oc=occitan pa=punjabi pl=polish ps=pashto pt=portuguese ro=romanian "
    "ru=russian sa=sanskrit sd=sindhi si=sinhala sk=slovak sl=slovenian sn=shona so=somali sq=albanian "
    "sr=serbian su=sundanese sv=swedish sw=swahili ta=tamil te=telugu tg=tajik th=thai tk=turkmen tl=tagalog "
    "tr=turkish tt=tatar uk=ukrainian ur=urdu uz=uzbek vi=vietnamese yi=yiddish yo=yoruba yue=cantonese "
    "zh=chinese "
)
LANGUAGES: Mapping[str, str] = MappingProxyType(
    {code: name.replace("_", " ") for code, _, name in (each.partition("=") for each in _NAMES.split())}
)
"""The languages that multilingual Whisper models know: code and English name."""


def transcript(segments: Iterable[Segment], language: str | None) -> str:
    """The whole text on one line."""
    return ("" if language in _UNSPACED else " ").join(segment["text"] for segment in segments)


def result(
    segments: list[dict[str, Any]], language: str | None, duration: float, heard: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A completed job's result (http-api.md). `duration` is the recording's, in seconds.

    `heard`, if it is known: `tracks`, the recording's sound tracks, the `track` and `channel` that were heard, and, if
    they were split, how many `channels` there were.
    """
    return {
        **(heard or {}),
        "transcript": transcript(segments, language),
        "segments": segments,
        "language": language,
        "duration": round(duration, 3),
    }


def txt(result: Mapping[str, Any]) -> str:
    """One line a segment."""
    return "".join(f"{_line(segment)}\n" for segment in result["segments"])


def srt(result: Mapping[str, Any], shape: subtitles.Shape | None = None) -> str:
    """SubRip. The format cannot escape its arrow, so an arrow in the text is shortened. A speaker stands before the
    text.
    """
    cues = (
        f"{number}\n{_span(cue, ',')}\n{_speaker(cue)}{''.join(_ARROW.sub('->', line) + chr(10) for line in cue.lines)}"
        for number, cue in enumerate(_cues(result, shape), 1)
    )
    return "\n".join(cues)


def vtt(result: Mapping[str, Any], shape: subtitles.Shape | None = None, *, highlights: bool = False) -> str:
    """WebVTT (W3C): `&`, `<` and `>` escaped, so that neither an arrow nor a tag in the text is taken for markup.

    A speaker is a voice tag. `highlights`: each word that has a time begins with it, so that players can mark what is
    said (`::cue(:past)`).
    """
    cues = (
        f"\n{_span(cue, '.')}\n{_voice(cue)}{''.join(line + chr(10) for line in _shown(cue, highlights))}"
        for cue in _cues(result, shape)
    )
    return "WEBVTT\n" + "".join(cues)


def _cues(result: Mapping[str, Any], shape: subtitles.Shape | None) -> Iterator[subtitles.Cue]:
    """Each has a millisecond at least, and begins when its speaker's last one has ended.

    A word that was hardly heard may take no time. WebVTT requires a cue to end after it starts, and players skip SubRip
    cues that do not.
    """
    ended: dict[str | None, float] = {}
    for cue in subtitles.cues(result["segments"], result.get("language"), shape):
        start = round(max(cue.start, ended.get(cue.speaker, 0.0)), 3)
        end = ended[cue.speaker] = round(max(cue.end, start + 0.001), 3)
        yield replace(cue, start=start, end=end)


def _speaker(cue: subtitles.Cue) -> str:
    return "" if cue.speaker is None else f"{cue.speaker}: "


def _voice(cue: subtitles.Cue) -> str:
    return "" if cue.speaker is None else f"<v {_escaped(cue.speaker)}>"


def _shown(cue: subtitles.Cue, highlights: bool) -> Iterator[str]:
    if not highlights or not cue.pieces:
        yield from map(_escaped, cue.lines)
        return
    reached = round(cue.start * 1000)
    for line in cue.pieces:
        shown = ""
        for said, start in line:
            at = round(start * 1000)
            # A time in a cue is later than the one before it, and within the cue.
            if reached < at < round(cue.end * 1000):
                shown += f"<{_clock(at, '.')}>"
                reached = at
            shown += _escaped(said)
        yield shown


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_json(result: Mapping[str, Any]) -> str:
    return json.dumps(dict(result), ensure_ascii=False)


FORMATS: Mapping[str, tuple[str, Callable[..., str]]] = MappingProxyType(
    {
        "json": ("application/json", as_json),
        "txt": ("text/plain; charset=utf-8", txt),
        "srt": ("application/x-subrip; charset=utf-8", srt),
        "vtt": ("text/vtt; charset=utf-8", vtt),
    }
)
"""By file extension: the media type, and the function that makes the file of a completed job's result. That of cues
also takes their `shape`."""


def _line(segment: Segment) -> str:
    # A blank line ends a cue in both subtitle formats.
    return " ".join(segment["text"].split())


def _span(cue: subtitles.Cue, decimal: str) -> str:
    return f"{_clock(round(cue.start * 1000), decimal)} --> {_clock(round(cue.end * 1000), decimal)}"


def _clock(milliseconds: int, decimal: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{decimal}{milliseconds:03d}"


def published(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored segment (`number, start, end, text, words, channel`) as results and events show it (see above)."""
    segment = {"id": stored["number"], **{name: stored[name] for name in ("start", "end", "text")}}
    if stored.get("channel") is not None:
        segment |= {"channel": stored["channel"], "speaker": f"channel {stored['channel']}"}
    return segment | {name: stored[name] for name in ("words", "language") if stored.get(name) is not None}


def by_time(segments: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Segments of several channels as one transcript: sorted by their times, and numbered anew."""
    ordered = sorted(segments, key=lambda segment: (segment["start"], segment["end"], segment.get("channel") or 0))
    return [{**segment, "id": number} for number, segment in enumerate(ordered)]
