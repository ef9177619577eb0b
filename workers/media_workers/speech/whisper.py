"""The speech model: faster-whisper, loaded once, fed a few chunks of samples at a time.

It takes samples, never files: only the confined children of `media_core.decoding` open containers.

Whisper invents words for silence. Three gates prevent that, the cheapest first. What the voice detector (Silero) takes
for silence is not given to the model; with `vad` off that is a window without a trace of a voice. A text is dropped if
its probability of no speech is above 0.6 while its words' mean log probability is below -1; where the detector finds no
voice, one of both is enough. Text is never given as context for the next 30 seconds, since that makes Whisper repeat
itself.
"""

import asyncio
import ctypes
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel, available_models
from faster_whisper.utils import download_model
from faster_whisper.vad import get_vad_model
from numpy.typing import NDArray

from media_core.errors import Refused
from media_core.transcripts.requests import TranscriptionRequest
from media_core.transcripts.speech_models import translates
from media_workers.settings import WhisperSettings
from media_workers.speech import hearing
from media_workers.speech.chunks import (
    FRAME,
    LONGEST_SECONDS,
    SAMPLE_RATE,
    Chunk,
    Flags,
    Samples,
    clear,
    silent,
)
from media_workers.speech.hearing import Hearing
from media_workers.speech.sentences import Word

_SETTING = "MEDIA_WHISPER_MODEL (spec.transcription.model)"
_CHUNKS_ON_CPU = 2
"""Chunks that are heard at the same time, each by half of the threads: two threads gain little on one chunk, since the
model's steps are small. More chunks, or two heard as one group, take more memory."""
_CHUNKS_ON_GPU = 8
"""Chunks that are heard together."""
_MOST_THREADS = 4
"""CPU threads, where none are set."""
_CLEAR = 0.5
"""Probability above which a chunk has another language than the recording (faster-whisper's own threshold)."""
_LIKELIER: Final = 3
"""So many times likelier than the recording's language another one is the chunk's even below that."""
_BEFORE_FRAME: Final = 64
"""Samples that the voice detector is given with a frame."""
_FRAMES_AT_ONCE: Final = 500
_C: Final = ctypes.CDLL(None)
_IS_GLIBC: Final = hasattr(_C, "malloc_trim")
_M_ARENA_MAX: Final = -8
_M_MMAP_THRESHOLD: Final = -3
# Most tokens of a hint, to which faster-whisper cuts it: half of the model's 448 positions, less one.
_HINT_TOKENS = 223


class Model:
    """A loaded model. `hearers`: how many chunks it hears at the same time on a CPU, each in a thread of its own.

    All else is computed meanwhile in one thread, one call after the other: of base the encoder takes 95 MiB for a
    moment and the times of words 50 MiB, while each text that is written takes 50 MiB. A computation cannot be
    interrupted: if its job is cancelled or its lease lost, the next job's computation waits for its end.
    """

    def __init__(self, whisper: Any, *, translates: bool = True, hearers: int = 1) -> None:
        self._whisper = whisper
        self._is_on_cpu = whisper.model.device == "cpu"
        self.at_once = _CHUNKS_ON_CPU if self._is_on_cpu else _CHUNKS_ON_GPU
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="whisper")
        self._hearers = ThreadPoolExecutor(max_workers=hearers, thread_name_prefix="hearer")
        # Older models lack some of the languages that faster-whisper lists.
        self.languages: frozenset[str] = frozenset(
            code
            for code in whisper.supported_languages
            if len(whisper.supported_languages) == 1 or whisper.hf_tokenizer.token_to_id(f"<|{code}|>") is not None
        )

        self.translates = translates and len(self.languages) > 1

    async def voice(self, audio: Samples) -> NDArray[np.float32]:
        """The probability that somebody speaks, for each frame (`chunks.FRAME` samples) of the audio."""
        return await self._computed(_voice_probabilities, audio)  # type: ignore[no-any-return]

    async def hear(
        self,
        audio: Samples,
        chunks: Sequence[Chunk],
        language: str | None,
        wanted: TranscriptionRequest,
        voice: Flags | None = None,
        quickly: bool = False,
    ) -> list[tuple[list[Word], str]]:
        """The words of each chunk of the audio, with times in seconds of the chunk, and its language.

        `language` None: it is that of the chunks as a whole. A `multilingual` recording has another one in a chunk
        where that is clear. `voice`: where somebody speaks; None: everywhere. `quickly`: clear speech is expected.
        """
        each = 1 if self._is_on_cpu else len(chunks)
        detects = len(self.languages) > 1 and (wanted.multilingual or language is None)
        groups = [
            asyncio.ensure_future(self._encoded(audio, chunks[first : first + each], detects))
            for first in range(0, len(chunks), each)
        ]
        if len(self.languages) == 1:
            language = next(iter(self.languages))
        elif language is None:
            likely = [chunk for group in await asyncio.gather(*groups) for chunk in group.likely]
            language = sum(likely, Counter[str]()).most_common(1)[0][0]
        being_heard = [self._heard_in(group, language, wanted, voice, quickly) for group in groups]
        groups.clear()  # what a group takes is free once it is heard
        return [chunk for group in await asyncio.gather(*being_heard) for chunk in group]

    async def _heard_in(
        self,
        being_encoded: Awaitable["_Group"],
        language: str,
        wanted: TranscriptionRequest,
        voice: Flags | None,
        quickly: bool,
    ) -> list[tuple[list[Word], str]]:
        """`language`: of the recording so far."""
        group = await being_encoded
        languages = [language] * len(group.chunks)
        if wanted.multilingual and group.likely:
            languages = [_spoken(chunk, language) for chunk in group.likely]
        if len(set(languages)) == 1:
            words = await self._words(group, languages[0], wanted, voice, quickly)
        else:
            words = [
                (await self._words(await self._alone(group, number), spoken, wanted, voice, quickly))[0]
                for number, spoken in enumerate(languages)
            ]
        return list(zip(words, languages, strict=True))

    async def _words(
        self, group: "_Group", language: str, wanted: TranscriptionRequest, voice: Flags | None, quickly: bool
    ) -> list[list[Word]]:
        asked = Hearing(self._whisper, language, wanted.task, self._prompt(wanted), wanted.hotwords)
        samples = [chunk.frames * FRAME for chunk in group.chunks]
        texts = await self._heard(asked.texts, group.sound, samples, quickly)
        for number, text in enumerate(texts):
            if voice is not None and not group.chunks[number].holds(voice):
                texts[number] = replace(text, tokens=[], written="") if text.is_invented else text
            elif text.is_doubtful:
                alone = await self._alone(group, number)
                texts[number] = await self._heard(asked.again, alone.sound, samples[number], text)
        return await self._computed(asked.words, group.sound, texts, samples)  # type: ignore[no-any-return]

    async def _alone(self, group: "_Group", number: int) -> "_Group":
        """One of the group's chunks by itself."""
        if len(group.chunks) == 1:
            return group
        return await self._encoded(group.audio, [group.chunks[number]], detects=False)

    async def _encoded(self, audio: Samples, chunks: Sequence[Chunk], detects: bool) -> "_Group":
        """`detects`: the likely languages are found out too."""
        sound = await self._computed(_encoded, self._whisper, audio, chunks)
        return _Group(audio, chunks, sound, await self._computed(self._likely, sound) if detects else ())

    def _likely(self, sound: ctranslate2.StorageView) -> list[Counter[str]]:
        return [
            Counter({token[2:-2]: probability for token, probability in chunk if token[2:-2] in self.languages})
            for chunk in self._whisper.model.detect_language(sound)
        ]

    async def _computed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _heard(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._hearers, function, *arguments)

    def _prompt(self, wanted: TranscriptionRequest) -> list[int] | None:
        """The prompt's last tokens that fit beside the hot words: both at full length would be an error."""
        if wanted.prompt is None:
            return None
        hotwords = len(self._tokens(wanted.hotwords)) if wanted.hotwords else 0
        room = max(_HINT_TOKENS - hotwords, 0)
        return self._tokens(wanted.prompt)[-room:] if room else None

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._whisper.hf_tokenizer.encode(f" {text.strip()}", add_special_tokens=False).ids
        return ids


@dataclass(frozen=True)
class _Group:
    """Chunks of the audio that the model hears together."""

    audio: Samples
    chunks: Sequence[Chunk]
    sound: ctranslate2.StorageView
    """What the model's encoder makes of the chunks."""
    likely: Sequence[Counter[str]]
    """The probability of each language, for each chunk. Empty where that was not asked for."""


class Whisper:
    """The model that the settings name. It is loaded at the first use and kept."""

    def __init__(self, settings: WhisperSettings) -> None:
        self._settings = settings
        self._model: Model | None = None
        self._loading = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._settings.model

    @property
    def chunk_seconds(self) -> float:
        return min(self._settings.chunk_seconds, LONGEST_SECONDS)

    async def model(self) -> Model:
        """Raises Refused `model_unavailable` with a sentence that says which setting to change."""
        async with self._loading:
            if self._model is None:
                self._model = await asyncio.to_thread(_load, self._settings)
            return self._model


def _load(settings: WhisperSettings) -> Model:
    device = _device(settings)
    supported = ctranslate2.get_supported_compute_types(device)
    if settings.compute_type not in {"default", "auto", *supported}:
        raise _unavailable(
            f"MEDIA_WHISPER_COMPUTE_TYPE is {settings.compute_type!r}, which this machine's {device} can't compute; "
            f"set it to one of {', '.join(sorted(supported))}."
        )
    folder = _folder(settings)
    threads = settings.cpu_threads or min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    hearers = min(_CHUNKS_ON_CPU, threads) if device == "cpu" else 1
    _give_memory_back()
    try:
        whisper = WhisperModel(
            str(folder),
            device=device,
            compute_type=settings.compute_type,
            cpu_threads=threads // hearers,
            num_workers=hearers,
            local_files_only=settings.local_files_only,
        )
        if device == "cuda":
            # The CUDA libraries are loaded at the first computation only.
            list(whisper.transcribe(np.zeros(SAMPLE_RATE, np.float32), language="en")[0])
    except Exception as error:  # ctranslate2's and tokenizers' errors share no base; the log has the cause
        raise _unavailable(
            f"The model in {settings.model!r} can't be loaded on {device} ({_first_line(error)}); set "
            "MEDIA_WHISPER_MODEL to a complete faster-whisper (CTranslate2) model, or MEDIA_WHISPER_DEVICE to cpu."
        ) from error
    is_whole = _has_whole_decoder(folder, mel_bands=whisper.model.n_mels)
    return Model(whisper, translates=is_whole and translates(settings.model), hearers=hearers)


def _has_whole_decoder(folder: Path, *, mel_bands: int) -> bool:
    """Whether the model's decoder has the layers that Whisper was first trained with, translations included.

    The distilled models and turbo keep two to four of them. Where cross attention follows the speech
    (`alignment_heads`, [layer, head]) shows how deep a decoder is: tiny, the smallest, has four layers, and what hears
    128 bands is a large one, of 32.
    """
    try:
        heads = json.loads((folder / "config.json").read_bytes()).get("alignment_heads")
        deepest = max(layer for layer, _ in heads)
    except (OSError, ValueError, TypeError, AttributeError):
        return True  # it does not say
    return bool(deepest > (3 if mel_bands == 128 else 1))


def _device(settings: WhisperSettings) -> str:
    has_cuda = ctranslate2.get_cuda_device_count() > 0
    if settings.device == "cuda" and not has_cuda:
        raise _unavailable(
            "MEDIA_WHISPER_DEVICE is 'cuda', but this machine has no CUDA device that can be used; set it to cpu."
        )
    if settings.device == "auto":
        return "cuda" if has_cuda else "cpu"
    return settings.device


def _folder(settings: WhisperSettings) -> Path:
    named = settings.model
    folder = Path(named).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or named.startswith((".", "~")):
            raise _unavailable(f"{_SETTING} is {named!r}, and there is no such folder; set it to one.")
        if "/" not in named and named not in available_models():
            raise _unavailable(
                f"{_SETTING} is {named!r}, which is neither a folder nor a model that faster-whisper knows; "
                f"set it to a model's folder or to one of {', '.join(available_models())}."
            )
        root = settings.download_root
        try:
            folder = Path(
                download_model(
                    named, local_files_only=settings.local_files_only, cache_dir=None if root is None else str(root)
                )
            )
        except Exception as error:  # huggingface_hub's errors share no useful base; the log has the cause
            raise _unavailable(
                f"{_SETTING} is {named!r}, which is not on this machine and "
                + (
                    "MEDIA_WHISPER_LOCAL_FILES_ONLY forbids to download it; allow that, or set MEDIA_WHISPER_MODEL "
                    if settings.local_files_only
                    else "could not be downloaded; let this machine reach the model hub, or set MEDIA_WHISPER_MODEL "
                )
                + "to the folder of a model that is here."
            ) from error
    if not (folder / "model.bin").is_file():
        raise _unavailable(
            f"{_SETTING} is {named!r}, and that folder holds no model.bin; set it to the folder of a "
            "faster-whisper (CTranslate2) model."
        )
    return folder


def _spoken(likely: Counter[str], common: str) -> str:
    """The language of one chunk. `likely`: the probability of each; `common`: of the recording so far."""
    code, probability = likely.most_common(1)[0]
    return code if probability > _CLEAR or probability >= _LIKELIER * likely[common] else common


def _voice_probabilities(audio: Samples) -> NDArray[np.float32]:
    """The detector hears no quiet voice after a loud one. So where it heard nobody for a while it listens once more,
    to that alone; a voice counts if it is clear then.
    """
    probabilities = _detected(audio)
    for since, until in silent(probabilities):
        alone = _detected(audio[since * FRAME : until * FRAME])
        found = clear(alone)
        probabilities[since:until][found] = alone[found]
    return probabilities


def _detected(audio: Samples) -> NDArray[np.float32]:
    """What faster-whisper's own call finds, but that computes a whole window at once: 240 s take 120 MB."""
    if not len(audio):
        return np.zeros(0, np.float32)
    heard = np.pad(audio, (_BEFORE_FRAME, -len(audio) % FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(heard, _BEFORE_FRAME + FRAME)[::FRAME]
    session, state = get_vad_model().session, {name: np.zeros((1, 1, 128), np.float32) for name in "hc"}
    found = []
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        part, state["h"], state["c"] = session.run(None, {"input": frames[first : first + _FRAMES_AT_ONCE], **state})
        found.append(part.ravel())
    return np.concatenate(found)


def _encoded(whisper: Any, audio: Samples, chunks: Sequence[Chunk]) -> ctranslate2.StorageView:
    """As `hearing.encoded`. What lies free between smaller arrays goes back to the system before, since this takes the
    most memory of all: base has 40 MB of it after some minutes, and giving it back takes milliseconds.
    """
    if _IS_GLIBC:
        _C.malloc_trim(0)
    return hearing.encoded(whisper, audio, chunks)


def _give_memory_back() -> None:
    """Makes the C library return large arrays to the system when they are freed, and keep the rest in one arena.

    Its own bounds grow with the arrays that were freed, and each thread has an arena: of base 120 to 210 MB stayed. A
    bound of 2 MiB instead of 4 costs up to a tenth more CPU time.
    """
    if _IS_GLIBC:
        _C.mallopt(_M_ARENA_MAX, 1)
        _C.mallopt(_M_MMAP_THRESHOLD, 4 << 20)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _unavailable(sentence: str) -> Refused:
    return Refused("model_unavailable", sentence)
