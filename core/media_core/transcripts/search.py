"""Search in transcripts: words, `"phrases"` and beginnings (`word*`), all of which stand in one passage. What
has a hyphen before it (`-word`) must not stand there.

The index (`passages`) finds passages that have the stems, the newest transcripts first, in spans of 64 transcripts,
of 1024, and so on, so that a common word costs no more in a large tenant than in a small one. At most `RANKED` of
them are ranked and make up a part of the list; the next part begins behind them. Where the caller may see few
recordings, or a filter leaves few, only these are searched.

What the index finds is checked in the text, where the words get their marks. Whether the caller may read a file is
decided by `items.access`; what the statements leave out only saves work.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, Final, LiteralString

from media_core.auth.tokens import ALL, CANARY, Claims
from media_core.errors import Refused
from media_core.items.access import Item, require_room
from media_core.items.item import is_in
from media_core.items.library import Library
from media_core.transcripts import passages
from media_core.transcripts.passages import SPANS, Stems
from media_core.transcripts.spoken_words import Word, words

EXAMINED: Final = 1000
"""Passages with the wanted words that a page looks at, at most, for those that have the phrases and that the caller may
see."""
RANKED: Final = 500
"""Of these, most that are ranked among each other."""
FEW: Final = 300
"""Where the caller may see so many recordings at most, they are searched by their numbers."""
MOST_WORDS: Final = 16
"""Of a query. The index is asked for as many: letters of a script without spaces are words there, and what follows in a
long run of them is looked for in the texts alone."""
MOST_BEGINNING: Final = 200
"""Words that may begin as a query's `word*` does."""
SNIPPET: Final = 200
"""Characters of a snippet, about."""
BEFORE: Final = 60
"""Characters of it before the first mark."""

REMEMBERED: Final = 20_000
"""Stems, about 3 MB."""

_LEVELS: Final = ((6, 1), (10, 2), (14, 3), (18, 4))
"""Of the spans: how far their numbers are shifted, and what kind they are (`passages.SPANS`)."""
_AT_ONCE: Final = 16
"""Most spans that are searched at once. Each match costs as much as there are."""
_GROWTH: Final = 16
"""So many times as many transcripts as all steps before are read at once, at most."""

_NEXT_TO: Final = re.compile(r"<\d+>")
"""In a query as PostgreSQL writes it."""
_TERM: Final = re.compile(r'((?:(?<=\s)|^)-)?(?:"([^"]*)"?|([^\s"]+))')
_AS_TYPED: Final = str.maketrans(dict.fromkeys("“”„‟«»「」『』＂", '"') | {"＊": "*"})
"""Phones and word processors put in the quotation marks of the language."""

# Each stemmer by one look into the index.
_USED: Final = """
WITH RECURSIVE used(stemmer) AS (
    SELECT min(stemmer) FROM vocabulary UNION ALL
    SELECT (SELECT min(stemmer) FROM vocabulary WHERE stemmer > used.stemmer) FROM used WHERE used.stemmer IS NOT NULL
) SELECT stemmer FROM used WHERE stemmer IS NOT NULL
"""
_BEGINNING: Final = """
SELECT word, stem FROM vocabulary WHERE stemmer = %(stemmer)s AND word >= %(first)s AND word < %(behind)s
ORDER BY word LIMIT %(most)s
"""
_NEWEST: Final = "SELECT coalesce(max(number), 0) AS number FROM transcript"
_RANK: Final = """
SELECT transcript, number, ts_rank(words, %(query)s::tsquery)::float8 AS rank
FROM unnest(%(transcripts)s::bigint[], %(numbers)s::int[]) AS found(transcript, number)
JOIN passage USING (transcript, number)
"""
# The job only for those who may see it: others cannot open it.
_TEXTS: Final = """
SELECT transcript, passage.number, passage.language, stemmer, segments, own, media_id, task, (
    SELECT job.job_id FROM job WHERE job.job_id = transcript.job_id AND (job.owner = %(subject)s OR %(admin)s)
) AS job_id
FROM unnest(%(transcripts)s::bigint[], %(numbers)s::int[]) AS found(transcript, number)
JOIN passage USING (transcript, number) JOIN transcript ON transcript.number = passage.transcript
"""
_HEARD: Final = "category IN ('audio','video')"


@dataclass(frozen=True)
class Wanted:
    """What is searched. `owner`: the uploader's subject; None: anybody's."""

    text: str
    room_id: str | None = None
    owner: str | None = None
    language: str | None = None
    """Of the text: a code of Whisper's."""
    labels: tuple[tuple[str, str], ...] = ()
    """All of them hold."""


@dataclass(frozen=True)
class Part:
    """A piece of a snippet."""

    text: str
    marked: bool


@dataclass(frozen=True)
class Spot:
    """A segment, or several of which `segment` is the first. Times in seconds."""

    segment: int
    start: float
    end: float
    speaker: str | None
    snippet: tuple[Part, ...]


@dataclass(frozen=True)
class Hit:
    """A moment of a recording at which the wanted words are said."""

    item: Item
    job_id: str | None
    """None: the job is gone, or another's."""
    task: str
    language: str | None
    rank: float
    spot: Spot


@dataclass(frozen=True, order=True)
class PassageKey:
    """The key of a passage's row. Newer transcripts have higher numbers."""

    transcript: int
    number: int


@dataclass(frozen=True)
class Continuation:
    """Where a page begins: in the part of the list before `part`, behind the first `hits` hits of a passage of it."""

    part: PassageKey
    rank: float | None = None
    passage: PassageKey | None = None
    hits: int = 0


@dataclass(frozen=True)
class Term:
    """Neighbouring words. The last one may be a beginning."""

    said: tuple[str, ...]
    is_beginning: bool
    is_unwanted: bool = False
    """It must not be said. The index is not asked for it: the texts that it finds are looked through."""


class Search:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._database = library.database
        self._known: dict[tuple[str, str], str | None] = {}

    async def find(
        self, caller: Claims, wanted: Wanted, *, after: Continuation | None = None, limit: int = 20
    ) -> tuple[list[Hit], Continuation | None]:
        """A page of hits, the best of a part of the list first, and where the next page begins (None: nowhere). A page
        may have fewer hits than `limit`, or none, and the list go on.

        Raises Refused `invalid_request` for a query without words that can be searched, also where all are too common
        in one language and nothing is found in the others; `not_found` for a room that the caller's token does not
        name.
        """
        require_room(caller, wanted.room_id)
        terms = _terms(wanted.text)
        queries, too_common = await self._queries([term for term in terms if not term.is_unwanted], wanted)
        hits, goes_on = await self._page(caller, wanted, terms, queries, after, limit) if queries else ([], None)
        if too_common and not hits and goes_on is None and after is None:
            raise _wrong("these words are too common to be searched; add one that is said less often")
        return hits, goes_on

    async def _page(
        self,
        caller: Claims,
        wanted: Wanted,
        terms: Sequence[Term],
        queries: Mapping[str, str],
        after: Continuation | None,
        limit: int,
    ) -> tuple[list[Hit], Continuation | None]:
        either = " | ".join(f"({query})" for query in queries.values())
        (newest,) = await self._database.call(_NEWEST, {})
        end = PassageKey(newest.number + 1, 0)
        # A cursor can name any passage. The spans between it and the newest transcript would be asked for one by one.
        after = Continuation(end) if after is None else replace(after, part=min(after.part, end))
        found, goes_on = await self._part(caller, wanted, either, after.part)
        ranked = await self._ranked(found, either)
        if after.passage is not None and after.rank is not None:
            at = _order((after.rank, after.passage))
            ranked = [each for each in ranked if _order(each) >= at]
        hits: list[Hit] = []
        while ranked:
            several, ranked = ranked[:limit], ranked[limit:]
            async for rank, key, its_hits in self._hits(caller, terms, several, queries):
                skipped = after.hits if key == after.passage else 0
                room = limit - len(hits)
                hits += its_hits[skipped : skipped + room]
                if len(hits) == limit:
                    return hits, Continuation(after.part, rank, key, skipped + room)
        return hits, None if goes_on is None else Continuation(goes_on)

    # -- the query -----------------------------------------------------------------------------------------------

    async def _queries(self, terms: Sequence[Term], wanted: Wanted) -> tuple[dict[str, str], bool]:
        """By stemmer, what the index is asked, as PostgreSQL writes a `tsquery`. Empty: there are no such words. And
        whether all words are too common in one of the languages.
        """
        used = [row.stemmer for row in await self._database.call(_USED, {})]
        if wanted.language is not None:
            stemmer = passages.stemmer_of(wanted.language, used)
            used = [stemmer] if stemmer in used else []
        stems = await self._stems((stemmer, word) for stemmer in used for term in terms for word in term.said)
        queries = {}
        too_common = False
        for stemmer in used:
            parts, left = [], MOST_WORDS
            for term in terms:
                parts += [await self._query(term, stemmer, stems, left)] if left > 0 else []
                left -= len(term.said)
            asked = [part for part in parts if part is not None]
            too_common = too_common or not asked
            if asked and "" not in asked:
                queries[stemmer] = " & ".join(asked)
        return queries, too_common

    async def _query(self, term: Term, stemmer: str, stems: Stems, most: int) -> str | None:
        """Of its first `most` words. None: all its words are too common. Empty: no word begins like this."""
        query, gap = "", 1
        for index, word in enumerate(term.said[:most]):
            if term.is_beginning and index == len(term.said) - 1:
                beginnings = await self._beginnings(word, stemmer)
                if not beginnings:
                    return ""
                asked = "(" + " | ".join(f"'{stem}'" for stem in beginnings) + ")"
            elif (stem := stems[stemmer, word]) is None:
                gap += 1
                continue
            else:
                asked = f"'{stem}'"
            query = f"{query} <{gap}> {asked}" if query else asked
            gap = 1
        return f"({query})" if query else None

    async def _beginnings(self, beginning: str, stemmer: str) -> list[str]:
        """The stems of all words that begin like this."""
        asked = {
            "stemmer": stemmer,
            "first": beginning,
            "behind": beginning + "\U0010ffff",
            "most": MOST_BEGINNING + 1,
        }
        found = await self._database.call(_BEGINNING, asked)
        if len(found) > MOST_BEGINNING:
            raise _wrong(f"more than {MOST_BEGINNING} words begin with {beginning!r}; write more letters of it")
        return sorted({row.stem for row in found})

    async def _stems(self, asked: Iterable[tuple[str, str]]) -> Stems:
        wanted = set(asked)
        stems = {pair: self._known[pair] for pair in wanted if pair in self._known}
        pairs = sorted(wanted - stems.keys())
        if pairs:
            columns = {"stemmers": [stemmer for stemmer, _ in pairs], "words": [word for _, word in pairs]}
            rows = await self._database.call(passages.STEMS, columns)
            found = {pair: row.stem for pair, row in zip(pairs, rows, strict=True)}
            if len(self._known) > REMEMBERED:
                self._known = {}
            self._known |= found
            stems |= found
        return stems

    # -- the index -----------------------------------------------------------------------------------------------

    async def _part(
        self, caller: Claims, wanted: Wanted, query: str, before: PassageKey
    ) -> tuple[list[PassageKey], PassageKey | None]:
        """Passages that the caller may see, the newest first, and before which one the next part begins."""
        visible = _Visible(caller, wanted, has_phrases=_NEXT_TO.search(query) is not None)
        few = await self._few(visible, before)
        found: list[PassageKey] = []
        examined = 0
        spans = Spans(before.transcript)
        while keys := spans.next(examined, len(found)) if few is None else list(islice(few, _AT_ONCE)):
            rest = {"transcript": before.transcript, "number": before.number, "most": EXAMINED - examined}
            asked = {"words": _NEXT_TO.sub("&", query), "query": query, "keys": keys}
            rows = await self._database.call(visible.matching, visible.arguments | rest | asked)
            examined += len(rows)
            for row in rows:
                if row.shown:
                    found.append(PassageKey(row.transcript, row.number))
                if len(found) == RANKED:
                    return found, found[-1]
            if examined == EXAMINED:
                return found, PassageKey(rows[-1].transcript, rows[-1].number)
        return found, None

    async def _few(self, visible: "_Visible", before: PassageKey) -> Iterator[int] | None:
        """The keys of the recordings themselves, the newest first, if these are few."""
        for ids in visible.sets:
            rows = await self._database.call(ids, visible.arguments)
            if len(rows) > FEW:
                continue
            transcripts = await self._database.call(
                "SELECT number FROM transcript WHERE media_id = ANY(%s) AND number <= %s ORDER BY number DESC",
                ([row.media_id for row in rows], before.transcript),
            )
            return (row.number << 3 for row in transcripts)
        return None

    async def _ranked(self, found: Sequence[PassageKey], query: str) -> list[tuple[float, PassageKey]]:
        rows = await self._database.call(_RANK, {"query": query} | _columns(found)) if found else []
        return sorted(((row.rank, PassageKey(row.transcript, row.number)) for row in rows), key=_order)

    # -- the text ------------------------------------------------------------------------------------------------

    async def _hits(
        self,
        caller: Claims,
        terms: Sequence[Term],
        ranked: Sequence[tuple[float, PassageKey]],
        queries: Mapping[str, str],
    ) -> AsyncIterator[tuple[float, PassageKey, list[Hit]]]:
        """The hits of each passage, as far as the caller may read its file."""
        asking = {"subject": caller.subject, "admin": "admin" in caller.scopes}
        rows = await self._database.call(_TEXTS, asking | _columns([key for _, key in ranked]))
        by_key = {PassageKey(row.transcript, row.number): row for row in rows if row.stemmer in queries}
        items = await self._library.find_all(caller, {row.media_id for row in by_key.values()}, "read")
        texts = {}
        for key, row in by_key.items():
            texts[key] = _Text(row.segments, row.own)
            await asyncio.sleep(0)  # a passage takes milliseconds; others are served between two
        spoken = {(by_key[key].stemmer, word) for key, text in texts.items() for word in text.said}
        wanted = {(stemmer, word) for stemmer in queries for term in terms for word in term.said}
        stems = await self._stems(spoken | wanted)
        for rank, key in ranked:
            row = by_key.get(key)
            item = None if row is None else items.get(row.media_id)
            if row is None or not isinstance(item, Item):
                continue
            hits = [
                Hit(item, row.job_id, row.task, row.language, rank, spot)
                for spot in texts[key].spots(terms, row.stemmer, stems)
            ]
            await asyncio.sleep(0)
            yield rank, key, hits


class Spans:
    """Steps that cover the transcripts up to `newest` once, the newest first. How many a step covers goes by what those
    before it found: it should find the rest of a part, and little more.
    """

    def __init__(self, newest: int) -> None:
        self._behind = newest + 1
        self._covered = 0

    def next(self, examined: int, found: int) -> list[int]:
        """Keys of `passages.SPANS`; none: all are covered. `examined` and `found`: of all steps so far."""
        keys: list[int] = []
        before = self._behind
        left = self._wanted(examined, found)
        while self._behind > 0 and left > 0 and len(keys) < _AT_ONCE:
            shift, kind = next(level for level in reversed(_LEVELS) if self._fits(level[0], left))
            first = self._behind - 1 >> shift << shift
            keys.append(first >> shift << 3 | kind)
            left -= self._behind - first
            self._behind = first
        self._covered += before - self._behind
        return keys

    def _wanted(self, examined: int, found: int) -> int:
        """Transcripts that have the rest of a part, and a fifth more."""
        if not self._covered:
            return 1
        most = self._covered * _GROWTH
        if not examined:
            return most
        passages = EXAMINED - examined
        if found:
            passages = min(passages, (RANKED - found) * examined // found)
        return min(most, passages * self._covered * 6 // (examined * 5) + 1)

    def _fits(self, shift: int, left: int) -> bool:
        """Whether a span is as large as `left` at most, and none of it is covered."""
        return shift == _LEVELS[0][0] or (1 << shift <= left and self._behind % (1 << shift) == 0)


class _Visible:
    """Which transcripts are of interest: the caller's, and not filtered out. As SQL."""

    def __init__(self, caller: Claims, wanted: Wanted, *, has_phrases: bool) -> None:
        self.arguments: dict[str, Any] = {"canary": CANARY, "subject": caller.subject, "few": FEW + 1}
        self.sets: list[LiteralString] = []
        """Each returns `media_id` of all recordings that may be of interest, or `FEW` + 1 of them."""
        conditions: list[LiteralString] = ["media.uploaded_by <> %(canary)s", "blob.scan_status <> 'infected'"]
        for number, (key, value) in enumerate(wanted.labels):
            labelled: LiteralString = f"key = %(key_{number})s AND value = %(value_{number})s"
            self.arguments |= {f"key_{number}": key, f"value_{number}": value}
            conditions.append(is_in("label", labelled))
            self.sets.append(f"SELECT media_id FROM label WHERE {labelled} LIMIT %(few)s")  # noqa: S608 (constants)
        if wanted.room_id is not None:
            self.arguments["room_id"] = wanted.room_id
            conditions.append(is_in("room_file", "room_id = %(room_id)s"))
            self.sets.append(f"SELECT media_id FROM room_file WHERE room_id = %(room_id)s AND {_HEARD} LIMIT %(few)s")  # noqa: S608 (constants)
        if wanted.owner is not None:
            self.arguments["owner"] = wanted.owner
            conditions.append("media.uploaded_by = %(owner)s")
            self.sets.append(f"SELECT media_id FROM media WHERE uploaded_by = %(owner)s AND {_HEARD} LIMIT %(few)s")  # noqa: S608 (constants)
        if "admin" not in caller.scopes:
            in_rooms: LiteralString = "true" if caller.rooms is ALL else "room_id = ANY(%(rooms)s)"
            self.arguments["rooms"] = [] if caller.rooms is ALL else sorted(caller.rooms)
            conditions.append(
                "(media.uploaded_by = %(subject)s OR media.tenant_scope OR "
                f"coalesce({is_in('room_file', in_rooms)}, false))"
            )
            if caller.rooms is not ALL:
                self.sets.append(f"""
                    (SELECT media_id FROM media WHERE uploaded_by = %(subject)s AND {_HEARD} LIMIT %(few)s) UNION
                    (SELECT media_id FROM media WHERE tenant_scope AND {_HEARD} LIMIT %(few)s) UNION
                    (SELECT media_id FROM room_file WHERE {in_rooms} AND {_HEARD} LIMIT %(few)s)
                """)  # noqa: S608 (constants)
        if wanted.language is not None:
            self.arguments["language"] = wanted.language
        self.matching = _matching(conditions, in_one_language=wanted.language is not None, has_phrases=has_phrases)
        """The statement that finds passages, and whether each may be shown."""


def _matching(conditions: Iterable[LiteralString], *, in_one_language: bool, has_phrases: bool) -> LiteralString:
    language: LiteralString = "language = %(language)s" if in_one_language else "true"
    # The index does not know where words stand. Of words that are common in no order, all passages would be read.
    phrases: LiteralString = "true"
    if has_phrases:
        phrases = """
            (SELECT words @@ %(query)s::tsquery FROM passage
             WHERE passage.transcript = newest.transcript AND passage.number = newest.number)
        """
    # Materialized, so that no order or limit leads the planner away from the index of words.
    return f"""
        WITH matching AS MATERIALIZED (
            SELECT transcript, number FROM passage
            WHERE words @@ %(words)s::tsquery AND {SPANS} && %(keys)s::bigint[] AND {language}
        ), newest AS MATERIALIZED (
            SELECT * FROM matching WHERE (transcript, number) < (%(transcript)s, %(number)s)
            ORDER BY transcript DESC, number DESC LIMIT %(most)s
        ), shown AS MATERIALIZED (
            SELECT transcript.number AS transcript
            FROM transcript JOIN media USING (media_id) JOIN blob USING (sha256)
            WHERE transcript.number = ANY(ARRAY(SELECT DISTINCT transcript FROM newest))
              AND {" AND ".join(conditions)}
        )
        SELECT newest.*, shown.transcript IS NOT NULL AND {phrases} AS shown
        FROM newest LEFT JOIN shown USING (transcript)
        ORDER BY transcript DESC, newest.number DESC
    """  # noqa: S608 (only constants are put in)


def _columns(keys: Sequence[PassageKey]) -> dict[str, Any]:
    return {"transcripts": [key.transcript for key in keys], "numbers": [key.number for key in keys]}


def _order(ranked: tuple[float, PassageKey]) -> tuple[float, int, int]:
    """The best first, of equal ones the newest."""
    rank, key = ranked
    return -rank, -key.transcript, -key.number


def _terms(text: str) -> list[Term]:
    """Raises Refused `invalid_request`."""
    terms = []
    count = 0
    for match in _TERM.finditer(text.translate(_AS_TYPED)):
        hyphen, phrase, plain = match.groups()
        said = list(words(phrase if plain is None else plain))
        if said:
            count += 1 + sum(one.behind < other.first for one, other in pairwise(said))
            is_beginning = plain is not None and plain.endswith("*")
            terms.append(Term(tuple(word.folded for word in said), is_beginning, hyphen is not None))
    if all(term.is_unwanted for term in terms):
        raise _wrong('it has no word to find; write words, "a phrase" or the beginning of a word*')
    if count > MOST_WORDS:
        raise _wrong(f"it has more than {MOST_WORDS} words")
    return list(dict.fromkeys(terms))


def _wrong(what: str) -> Refused:
    return Refused("invalid_request", f"q: {what}.", errors=[{"where": "q", "what": what}])


@dataclass(frozen=True)
class _Said:
    """A word, and the number of its segment in the passage."""

    segment: int
    word: Word


class _Text:
    """The text of a passage, word by word."""

    def __init__(self, segments: Sequence[Sequence[Any]], own: int) -> None:
        self._segments = segments
        self._own = own
        self._words = [_Said(number, word) for number, segment in enumerate(segments) for word in words(segment[3])]
        self.said = {each.word.folded for each in self._words}

    def spots(self, terms: Sequence[Term], stemmer: str, stems: Stems) -> list[Spot]:
        """Each own segment that has all terms. If none has, the shortest run that has them, from an own one on. None
        where an unwanted term is said.
        """
        if any(term.is_unwanted and any(self._found(term, stemmer, stems)) for term in terms):
            return []
        found = [
            list(self._found(term, stemmer, stems))
            for term in terms
            if not term.is_unwanted
            if len(term.said) > 1 or term.is_beginning or stems[stemmer, term.said[0]] is not None
        ]
        begin = [{self._words[first].segment for first, _ in spots} for spots in found]
        whole = [number for number in range(self._own) if all(number in segments for segments in begin)]
        if whole:
            return [self._spot(number, number, found) for number in whole]
        runs = []
        for first in range(self._own):
            behind = [min((number for number in segments if number >= first), default=None) for segments in begin]
            last = max((number for number in behind if number is not None), default=first)
            if first in behind and None not in behind:
                runs.append((last - first, first, last))
        return [self._spot(*run[1:], found) for run in [min(runs)]] if runs else []

    def _found(self, term: Term, stemmer: str, stems: Stems) -> Iterator[tuple[int, int]]:
        """The first and the last word of each spot where the term is said."""
        for first in range(len(self._words) - len(term.said) + 1):
            for index, wanted in enumerate(term.said):
                said = self._words[first + index].word.folded
                if term.is_beginning and index == len(term.said) - 1:
                    is_it = said.startswith(wanted)
                else:
                    stem = stems[stemmer, wanted]
                    is_it = said == wanted if stem is None else stems[stemmer, said] == stem
                if not is_it:
                    break
            else:
                yield first, first + len(term.said) - 1

    def _spot(self, first: int, last: int, found: Sequence[Sequence[tuple[int, int]]]) -> Spot:
        marks = []
        for begins, ends in (spot for spots in found for spot in spots):
            if first <= self._words[begins].segment <= last:
                last = max(last, self._words[ends].segment)
                marks += self._words[begins : ends + 1]
        number, start, _, _, speaker = self._segments[first]
        return Spot(number, start, self._segments[last][2], speaker, self._snippet(first, last, marks))

    def _snippet(self, first: int, last: int, marked: Sequence[_Said]) -> tuple[Part, ...]:
        offsets, at = {}, 0
        for number in range(first, last + 1):
            offsets[number] = at
            at += len(self._segments[number][3]) + 1
        text = " ".join(segment[3] for segment in self._segments[first : last + 1])
        marks = sorted(
            {(offsets[said.segment] + said.word.first, offsets[said.segment] + said.word.behind) for said in marked}
        )
        return tuple(_cut(text, marks))


def _cut(text: str, marks: Sequence[tuple[int, int]]) -> Iterator[Part]:
    """A text around its first mark, as parts."""
    first = text.rfind(" ", 0, max(marks[0][0] - BEFORE, 0)) + 1 if marks[0][0] > BEFORE else 0
    if marks[0][0] - first > BEFORE * 2:  # a script without spaces
        first = marks[0][0] - BEFORE
    behind = len(text)
    if behind - first > SNIPPET:
        space = text.rfind(" ", first, first + SNIPPET)
        behind = max(space if space > marks[0][1] else first + SNIPPET, marks[0][1])
    parts = [Part("… ", False)] if first else []
    at = first
    for begins, ends in marks:
        if ends > behind:
            break
        # Neighbours with nothing but a space or a sign between them are one mark.
        if parts and parts[-1].marked and not any(map(str.isalnum, text[at:begins])) and begins - at <= 1:
            parts[-1] = Part(parts[-1].text + text[at:ends], True)
        else:
            parts += [Part(text[at:begins], False), Part(text[begins:ends], True)]
        at = ends
    parts.append(Part(text[at:behind] + (" …" if behind < len(text) else ""), False))
    return (part for part in parts if part.text)
