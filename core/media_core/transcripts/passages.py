"""What the search in transcripts reads: passages of about a minute, with the stems of their words.

A transcript is taken in with the transaction that completes its job, or by the sweep (`fill`), and goes with its item.
An error there does not keep the job from being completed.
The newest transcript of an item takes the place of older ones that heard it in the same way: the same task, track and
channel. An hour of speech takes about 200 KB of the database, index included. That is not counted in the quota.

The stems come from PostgreSQL's own stemmers (`ts_lexize`), the words from `spoken_words`. A language that the server
has no stemmer for is searched by its words as they are (`simple`).
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from media_core.database import Database, Transaction
from media_core.transcripts.formats import LANGUAGES
from media_core.transcripts.spoken_words import words

SECONDS: Final = 60.0
CHARACTERS: Final = 1200
"""A passage is no longer, unless its only segment is."""
SIMPLE: Final = "simple"
SPANS: Final = (
    "ARRAY[transcript << 3, ((transcript >> 6) << 3) | 1::bigint, ((transcript >> 10) << 3) | 2::bigint,"
    " ((transcript >> 14) << 3) | 3::bigint, ((transcript >> 18) << 3) | 4::bigint]"
)
"""The transcript of a passage, and the spans of 64, 1024, 16,384 and 262,144 transcripts that it is in, as the index
of `passage` has them: the number, and in its last three bits the kind."""

MOST_FILLED: Final = 5000
"""Jobs that one sweep looks at."""
LOOKED_AT: Final = 100
"""Jobs or words that one statement looks at."""
SHARES: Final = 24

STEMS: Final = """
SELECT CASE WHEN dictionary.oid IS NULL THEN asked.word ELSE (ts_lexize(dictionary.oid::regdictionary, asked.word))[1]
    END AS stem
FROM unnest(%(stemmers)s::text[], %(words)s::text[]) WITH ORDINALITY AS asked(stemmer, word, number)
LEFT JOIN pg_ts_dict AS dictionary ON dictionary.dictname = asked.stemmer || '_stem'
    AND dictionary.dictnamespace = 'pg_catalog'::regnamespace
ORDER BY asked.number
"""
"""The stem of each word, null of words that are too common to be searched."""
_STEMMERS: Final = """
SELECT left(dictname, -5) AS name FROM pg_ts_dict
WHERE dictnamespace = 'pg_catalog'::regnamespace AND right(dictname, 5) = '_stem'
"""
# `keep` of two jobs of one item go one after the other. The item cannot be deleted meanwhile.
_LOCK_ITEM: Final = "SELECT FROM media WHERE media_id = %(media_id)s FOR NO KEY UPDATE"
_REPLACE: Final = """
DELETE FROM transcript
WHERE media_id = %(media_id)s AND task = %(task)s AND track = %(track)s AND channel = %(channel)s
"""
_TRANSCRIPT: Final = """
INSERT INTO transcript (media_id, job_id, task, track, channel)
VALUES (%(media_id)s, %(job_id)s, %(task)s, %(track)s, %(channel)s) RETURNING number
"""
_PASSAGES: Final = """
INSERT INTO passage (transcript, number, language, stemmer, segments, own, words)
SELECT %(transcript)s, number - 1, language, stemmer, segments::jsonb, own, words::tsvector
FROM unnest(%(languages)s::text[], %(stemmers)s::text[], %(segments)s::text[], %(own)s::int[], %(words)s::text[])
    WITH ORDINALITY AS passage(language, stemmer, segments, own, words, number)
"""
_VOCABULARY: Final = """
INSERT INTO vocabulary (stemmer, word, stem)
SELECT * FROM unnest(%(stemmers)s::text[], %(words)s::text[], %(stems)s::text[]) AS spoken(stemmer, word, stem)
ORDER BY stemmer, word COLLATE "C" ON CONFLICT DO NOTHING
"""
_SEARCHABLE: Final = "UPDATE job SET searchable = true WHERE job_id = %(job_id)s"

_UNSEARCHABLE: Final = """
SELECT job_id, EXISTS (SELECT FROM media WHERE media.media_id = job.media_id) AS has_item FROM job
WHERE kind = 'transcribe' AND status = 'completed' AND NOT searchable AND NOT job_id = ANY(%s)
ORDER BY finished_at, job_id LIMIT %s
"""
_NOTHING_TO_SEARCH: Final = "UPDATE job SET searchable = true WHERE job_id = ANY(%s)"
# Without the words' times, which are the larger part of a result.
_RESULT: Final = """
SELECT job.media_id, job.payload, job.result - ARRAY['segments','transcript'] || jsonb_build_object('segments',
    (SELECT coalesce(jsonb_agg(segment - 'words'), '[]') FROM jsonb_array_elements(job.result -> 'segments') AS segment)
) AS result
FROM job WHERE job_id = %(job_id)s AND status = 'completed' AND NOT searchable FOR UPDATE
"""
_IS_OLDER: Final = """
SELECT FROM transcript JOIN job AS newer USING (job_id) JOIN job AS this ON this.job_id = %(job_id)s
WHERE transcript.media_id = %(media_id)s AND task = %(task)s AND track = %(track)s AND channel = %(channel)s
    AND newer.finished_at > this.finished_at
"""

# Words that no passage has any more. A common word is found at once, in the newest span of transcripts. Not EXISTS:
# of that the planner could make a join that reads the whole table.
_IN_NO_PASSAGE: Final = f"""
(SELECT true FROM passage WHERE words @@ quoted.query AND {SPANS} && ARRAY[newest.key] LIMIT 1) IS NULL
AND (SELECT true FROM passage WHERE words @@ quoted.query LIMIT 1) IS NULL
"""  # noqa: S608 (only constants are put in)
_QUOTED: Final = """
CROSS JOIN LATERAL (SELECT ('''' || looked_at.stem || '''')::tsquery AS query) AS quoted
CROSS JOIN (SELECT max(number) >> 10 << 3 | 2 AS key FROM transcript) AS newest
"""
_LOOK_AT_WORDS: Final = f"""
WITH looked_at AS (
    SELECT stemmer, word, stem FROM vocabulary WHERE (stemmer, word) > (%(stemmer)s, %(word)s)
    ORDER BY stemmer, word LIMIT %(most)s
)
SELECT stemmer, word, stem, (hashtext(word) & 32767) %% %(shares)s = %(share)s AND {_IN_NO_PASSAGE} AS unused
FROM looked_at {_QUOTED} ORDER BY stemmer, word
"""  # noqa: S608 (only constants are put in)
# A transcript that is being taken in relies on the words that are there.
_LOCK_VOCABULARY: Final = "LOCK TABLE vocabulary IN SHARE ROW EXCLUSIVE MODE"
_FORGET: Final = f"""
DELETE FROM vocabulary USING (
    SELECT looked_at.stemmer, looked_at.word
    FROM unnest(%(stemmers)s::text[], %(words)s::text[], %(stems)s::text[]) AS looked_at(stemmer, word, stem)
    {_QUOTED} WHERE {_IN_NO_PASSAGE}
) AS unused WHERE vocabulary.stemmer = unused.stemmer AND vocabulary.word = unused.word
RETURNING vocabulary.word
"""  # noqa: S608 (only constants are put in)

Stems = Mapping[tuple[str, str], str | None]
"""By stemmer and word. None: the word is too common to be searched."""


_log = structlog.stdlib.get_logger("media.passages")


@dataclass(frozen=True)
class Passage:
    """`segments` as `tables.transcripts.PassageRow` has them; the first `own` are its own."""

    language: str | None
    segments: Sequence[Sequence[Any]]
    own: int

    def spoken(self) -> list[str]:
        """Its words in order, those of the following segment included."""
        return [word.folded for segment in self.segments for word in words(segment[3])]


def passages(segments: Iterable[Mapping[str, Any]], language: str | None) -> list[Passage]:
    """The passages of segments (see `formats`), which may have a `speaker` and a `language` each."""
    groups: list[tuple[str | None, list[list[Any]]]] = []
    letters = 0
    for segment in segments:
        spoken_in = segment.get("language") or language
        row = [segment["id"], segment["start"], segment["end"], segment["text"], segment.get("speaker")]
        letters += len(segment["text"])
        fits = groups and groups[-1][0] == spoken_in and letters <= CHARACTERS
        if fits and segment["end"] - groups[-1][1][0][1] <= SECONDS:
            groups[-1][1].append(row)
        else:
            groups.append((spoken_in, [row]))
            letters = len(segment["text"])
    following = [*(rows[:1] for _, rows in groups[1:]), []][: len(groups)]
    return [
        Passage(spoken_in, rows + next_one, len(rows))
        for (spoken_in, rows), next_one in zip(groups, following, strict=True)
    ]


def stemmer_of(language: str | None, stemmers: Collection[str]) -> str:
    """The stemmer of a Whisper language, if the server is one that has it."""
    name = "norwegian" if language == "nn" else LANGUAGES.get(language or "", SIMPLE)
    return name if name in stemmers else SIMPLE


async def try_to_keep(
    tx: Transaction, job_id: str, media_id: str, payload: Mapping[str, Any], result: Mapping[str, Any]
) -> bool:
    """As `keep`. False: it failed, which loses nothing else of the transaction; the sweep tries it again (`fill`)."""
    try:
        async with tx.savepoint():
            await keep(tx, job_id, media_id, payload, result)
    except Exception as error:  # any error: the transcript is kept, also where it cannot be searched
        # The error may quote what was said, so it is not logged.
        state = getattr(error, "sqlstate", None)
        _log.error("transcript_not_searchable", job_id=job_id, reason=type(error).__name__, sqlstate=state)
        return False
    return True


async def keep(
    tx: Transaction, job_id: str, media_id: str, payload: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """Makes a completed job's result (see `formats.result`) searchable, in the transaction that completes it."""
    named = {"job_id": job_id, "media_id": media_id}
    if await tx.first(_LOCK_ITEM, named) is not None:
        task = payload.get("task") or "transcribe"
        heard = {"task": task, "track": result.get("track") or 1, "channel": result.get("channel") or 0}
        if await tx.first(_IS_OLDER, named | heard) is None:
            await tx.execute(_REPLACE, named | heard)
            number = await tx.value(_TRANSCRIPT, named | heard)
            found = passages(result["segments"], "en" if task == "translate" else result.get("language"))
            if found:
                await _write(tx, number, found)
    await tx.execute(_SEARCHABLE, named)


async def _write(tx: Transaction, number: int, found: Sequence[Passage]) -> None:
    available = {row.name for row in await tx.execute(_STEMMERS)}
    stemmers = [stemmer_of(passage.language, available) for passage in found]
    spoken = [passage.spoken() for passage in found]
    asked = sorted({(stemmer, word) for stemmer, said in zip(stemmers, spoken, strict=True) for word in said})
    parameters = {"stemmers": [stemmer for stemmer, _ in asked], "words": [word for _, word in asked]}
    stems = {pair: row.stem for pair, row in zip(asked, await tx.execute(STEMS, parameters), strict=True)}
    rows: dict[str, Any] = {
        "transcript": number,
        "languages": [passage.language for passage in found],
        "stemmers": stemmers,
        "segments": [json.dumps(passage.segments) for passage in found],
        "own": [passage.own for passage in found],
        "words": [vector(stemmer, said, stems) for stemmer, said in zip(stemmers, spoken, strict=True)],
    }
    await tx.execute(_PASSAGES, rows)
    known = [(stemmer, word, stem) for (stemmer, word), stem in stems.items() if stem is not None]
    columns = zip(*known, strict=True) if known else ((), (), ())
    await tx.execute(
        _VOCABULARY, {name: list(column) for name, column in zip(("stemmers", "words", "stems"), columns, strict=True)}
    )


def vector(stemmer: str, said: Sequence[str], stems: Stems) -> str:
    """A `tsvector`, as PostgreSQL writes it. Words have neither quotes nor backslashes. Common ones leave a gap."""
    positions: defaultdict[str, list[str]] = defaultdict(list)
    for position, word in enumerate(said, 1):
        stem = stems[stemmer, word]
        if stem is not None:
            positions[stem].append(str(position))
    return " ".join(f"'{stem}':{','.join(at)}" for stem, at in positions.items())


async def fill(database: Database) -> int:
    """Takes in transcripts whose jobs were completed without it, the oldest first: by a version before the search, or
    where `keep` failed. One that fails again is left to the next sweep. Returns how many it has taken in.
    """
    filled, failed = 0, list[str]()
    for _ in range(MOST_FILLED // LOOKED_AT):
        jobs = await database.call(_UNSEARCHABLE, (failed, LOOKED_AT))
        await database.call(_NOTHING_TO_SEARCH, ([job.job_id for job in jobs if not job.has_item],))
        for job in jobs:
            if job.has_item and await _fill(database, job.job_id):
                filled += 1
            elif job.has_item:
                failed.append(job.job_id)
        if len(jobs) < LOOKED_AT:
            break
    return filled


async def _fill(database: Database, job_id: str) -> bool:
    async with database.transaction() as tx:
        row = await tx.first(_RESULT, {"job_id": job_id})
        return row is None or await try_to_keep(tx, job_id, row.media_id, row.payload, row.result)


async def forget_words(database: Database, sweep: int) -> int:
    """Forgets words that are in no passage any more. Each sweep looks at one of `SHARES` of the vocabulary. Returns how
    many it has forgotten.
    """
    forgotten, stemmer, word = 0, "", ""
    while True:
        asked = {"stemmer": stemmer, "word": word, "most": LOOKED_AT, "shares": SHARES, "share": sweep % SHARES}
        rows = await database.call(_LOOK_AT_WORDS, asked)
        unused = [row for row in rows if row.unused]
        if unused:
            columns = {name: [getattr(row, name[:-1]) for row in unused] for name in ("stemmers", "words", "stems")}
            async with database.transaction() as tx:
                await tx.execute(_LOCK_VOCABULARY)
                forgotten += len(await tx.execute(_FORGET, columns))
        if len(rows) < LOOKED_AT:
            return forgotten
        stemmer, word = rows[-1].stemmer, rows[-1].word
