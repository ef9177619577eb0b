"""What Whisper is asked for, a few chunks of up to 30 seconds at a time, and what of its answers is believed.

faster-whisper's own batched pipeline does the same, but it encodes all chunks at once, which takes 70 MB and more for
each; it hears no doubtful chunk again; and it says which words it heard only together with times of its own.

The model writes text without its timestamps: with them it leaves out what follows the last one in a chunk. The times
are those of the words, found afterwards by where its attention was (`align`).
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ctranslate2
import numpy as np
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens, merge_punctuations

from media_workers.speech.chunks import SAMPLE_RATE, Chunk, Samples
from media_workers.speech.sentences import Word

# faster-whisper's defaults.
_BEAMS: Final = 5
_WARMER: Final = (0.2, 0.4, 0.6, 0.8, 1.0)
_TOKENS_PER_SECOND: Final = 80
"""So many positions at most are used for a second of sound, and as many more for a chunk: a model that repeats itself
ends. Whisper has 448 for each 30 seconds. CTranslate2 gives half of them to the text: 40 tokens for a second. English
takes 4, Hindi 12, Georgian 35."""
_UNSURE: Final = -1.0
"""Mean log probability of the tokens below which a text is heard again."""
SURE: Final = -0.15
"""Mean log probability above which the likeliest token each time is believed. In clear speech five beams write
nothing better, and take half as much time again (docs/speech.md has the figures)."""
_REPETITIVE: Final = 2.4
"""Ratio by which zlib compresses a text above which it is heard again: the model repeats itself. faster-whisper
compresses UTF-8, in which half of any Hindi, Tamil or Georgian text repeats; here a character counts as one byte."""
_NOBODY: Final = 0.6
"""Probability of no speech above which an unsure text is none."""
_PREPENDED: Final = "\"'“¿([{-"
_APPENDED: Final = "\"'.。,，!！?？:：”)]}、"
_MEL_HOP: Final = 160


@dataclass(frozen=True)
class Text:
    """The tokens of a chunk's text. `probability`: the mean log of the tokens'. `nobody`: of no speech. `ended`: by the
    model itself, not at the limit.
    """

    tokens: list[int]
    written: str
    probability: float
    nobody: float
    ended: bool = True

    @property
    def is_silence(self) -> bool:
        return self.nobody > _NOBODY and self.probability < _UNSURE

    @property
    def is_repetitive(self) -> bool:
        characters = self.written.encode("utf-16-le")[::2]
        return bool(characters) and len(characters) / len(zlib.compress(characters)) > _REPETITIVE

    @property
    def is_sure(self) -> bool:
        return self.probability > SURE and not self.is_repetitive

    @property
    def is_doubtful(self) -> bool:
        return not self.is_silence and (self.probability < _UNSURE or self.is_repetitive)

    @property
    def is_invented(self) -> bool:
        """By the stricter measure for a chunk in which no voice was found: either of the signs is enough."""
        return self.nobody > _NOBODY or self.probability < _UNSURE or self.is_repetitive


def encoded(whisper: Any, audio: Samples, chunks: Sequence[Chunk]) -> ctranslate2.StorageView:
    """What the model's encoder makes of the chunks of the audio. It takes a second for each."""
    return whisper.encode(
        np.stack([pad_or_trim(whisper.feature_extractor(chunk.of(audio))[..., :-1]) for chunk in chunks])
    )


class Hearing:
    """Asks a model for the words of chunks, in one language."""

    def __init__(self, whisper: Any, language: str, task: str, prompt: list[int] | None, hotwords: str | None) -> None:
        self._whisper = whisper
        self._tokenizer = Tokenizer(whisper.hf_tokenizer, whisper.model.is_multilingual, task=task, language=language)
        self._prompt = whisper.get_prompt(self._tokenizer, prompt or [], without_timestamps=True, hotwords=hotwords)
        self._suppressed = get_suppressed_tokens(self._tokenizer, [-1])

    def texts(self, sound: ctranslate2.StorageView, samples: Sequence[int], quickly: bool = False) -> list[Text]:
        """The text of each chunk. One that is doubtful should be heard `again`. `samples`: of each chunk.

        `quickly`: without beams, where the model is sure of what it writes so.
        """
        if quickly:
            texts = self._generated(sound, max(samples), beam_size=1)
            if all(text.is_sure for text in texts):
                return texts
        return self._generated(sound, max(samples), beam_size=_BEAMS, patience=1)

    def again(self, sound: ctranslate2.StorageView, samples: int, doubtful: Text) -> Text:
        """The text of one chunk that was doubtful, heard with more and more freedom until it is none any more.

        One try at each temperature: faster-whisper's five at once take the memory of five chunks, and the time of five.
        If all stay doubtful, a repetitive one that is likely and ends by itself is believed: people repeat themselves,
        and what the model writes with the most freedom instead has little to do with the sound.
        """
        tried = [doubtful]
        for temperature in _WARMER:
            text = self._generated(sound, samples, beam_size=1, sampling_topk=0, sampling_temperature=temperature)[0]
            if not text.is_doubtful:
                return text
            tried.append(text)
        said_twice = [text for text in tried if text.ended and text.probability >= _UNSURE]
        once = [text for text in tried if not text.is_repetitive]
        return max(said_twice or once or tried, key=lambda text: text.probability)

    def _generated(self, sound: ctranslate2.StorageView, samples: int, **options: Any) -> list[Text]:
        most = min(
            len(self._prompt) + round(_TOKENS_PER_SECOND * (1 + samples / SAMPLE_RATE)), self._whisper.max_length
        )
        results = self._whisper.model.generate(
            sound,
            [self._prompt] * sound.shape[0],
            max_length=most,
            suppress_blank=True,
            suppress_tokens=self._suppressed,
            return_scores=True,
            return_no_speech_prob=True,
            **options,
        )
        limit = min(most // 2, most - len(self._prompt))  # CTranslate2's, of the text alone
        return [self._text(result, limit) for result in results]

    def _text(self, result: Any, limit: int) -> Text:
        tokens = result.sequences_ids[0]
        written = [token for token in tokens if token < self._tokenizer.eot]
        ended = len(tokens) < limit
        probability = result.scores[0] * len(tokens) / (len(tokens) + 1)
        return Text(written, self._tokenizer.decode(written).strip(), probability, result.no_speech_prob, ended)

    def words(self, sound: ctranslate2.StorageView, texts: Sequence[Text], samples: Sequence[int]) -> list[list[Word]]:
        """The words of each chunk, with times in its seconds. `samples`: of each chunk."""
        spoken = [[] if text.is_silence else text.tokens for text in texts]
        if not any(spoken):
            return [[] for _ in texts]
        lengths = [count // _MEL_HOP for count in samples]
        aligned = self._whisper.find_alignment(self._tokenizer, spoken, sound, lengths)
        return [list(_words(words, count / SAMPLE_RATE)) for words, count in zip(aligned, samples, strict=True)]


def _words(aligned: list[dict[str, Any]], seconds: float) -> Iterator[Word]:
    merge_punctuations(aligned, _PREPENDED, _APPENDED)
    for word in aligned:
        text = word["word"].replace("\0", "")  # PostgreSQL cannot store NUL
        if text.strip():
            end = min(float(word["end"]), seconds)
            yield Word(text, min(float(word["start"]), end), end, float(word["probability"]))
