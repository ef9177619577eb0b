"""The platform's HTTP API as a library: `Client` blocks, `AsyncClient` awaits; both have the methods of `Calls`.

    with Client("https://media.example", token) as media:
        photo = media.upload("photo.jpg", room_id="lobby")
        for page in media.files(type="image", sort="-size"):
            print([file["filename"] for file in page["data"]])

What the API answers comes as typed dicts (`mediactl.models`), untouched. Every failure is a `MediaError`. If the API
says "later" (425, 429, 503), a call waits as long as it says, at most a minute in all.
"""

import functools
import json
import math
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, Literal, ParamSpec, TypeVar

import httpx

from mediactl.download import Download, Downloaded
from mediactl.errors import Failed, Misuse, Problem, Unreachable
from mediactl.exchange import PATIENCE, Exchange, OnWait, Silence, given, is_later, known_room, path_of
from mediactl.models import (
    Event,
    EventPage,
    Job,
    JobAccepted,
    Media,
    MediaInfo,
    Page,
    RoomFile,
    SearchHit,
    Segment,
    Signed,
    SignedOne,
    Usage,
)
from mediactl.resuming import FROM_BYTES, Resuming, Unspoken
from mediactl.sending import File, Form, OnBytes, open_source
from mediactl.wire import Awaiting, Blocking, now, one_by_one

P = ParamSpec("P")
T = TypeVar("T")

MediaType = Literal["image", "audio", "video", "document"]
Sort = Literal["created", "-created", "name", "-name", "size", "-size"]
Via = Literal["store", "api"]
TranscriptFormat = Literal["txt", "srt", "vtt", "json"]
FINAL = frozenset({"completed", "failed", "cancelled"})
"""A job's last states."""
MOST_SIGNED = 200
"""Of one request."""


class Calls:
    """What both clients do. The names of parameters are the API's; docs/http-api.md says more of each."""

    def __init__(self, exchange: Exchange) -> None:
        self._api = exchange

    # --- files -------------------------------------------------------------------------------------------------------

    async def upload(
        self,
        file: File,
        *,
        filename: str | None = None,
        room_id: str | None = None,
        tenant_scope: bool = False,
        labels: Mapping[str, str] | None = None,
        on_bytes: OnBytes = lambda _: None,
        notes: str | os.PathLike[str] | None = None,
    ) -> Media:
        """Uploads `file`: from 16 MiB on in several requests, which go on by themselves after a lost network.

        With `notes`, a folder, the same call goes on in another process too. Raises also Corrupt, and OSError.
        """
        fields = _fields_of_a_file(room_id, tenant_scope, labels)
        with open_source(file, filename) as source:
            media: Media
            if source.size is not None and source.size >= FROM_BYTES:
                try:
                    folder = None if notes is None else Path(notes)
                    media = await Resuming(self._api, source, fields, on_bytes, folder).send()
                except Unspoken:
                    pass
                else:
                    return media
            media = await Form(self._api, fields, source, on_bytes).post(path_of("media", "upload"))
            return media

    async def download(
        self,
        media_id: str,
        target: str | os.PathLike[str] | None = None,
        *,
        thumbnail: bool = False,
        size: int | None = None,
        jpeg: bool = False,
        on_bytes: Callable[[int, int | None], None] = lambda *_: None,
    ) -> Downloaded:
        """Downloads a file, or its `thumbnail`, and checks its sha256. After a break it goes on, the next call too.

        `target` None: under its own name in the current folder; a folder: in this one. Neither replaces another file;
        a `target` that names a file does. `size` and `jpeg` are of thumbnails. Raises also Corrupt, and OSError.
        """
        fallback = f"{media_id}.webp" if thumbnail else media_id
        where = None if target is None else Path(target)
        return await self._download(media_id, thumbnail, size, jpeg, on_bytes).to_file(where, fallback)

    async def download_to(
        self,
        stream: BinaryIO,
        media_id: str,
        *,
        thumbnail: bool = False,
        size: int | None = None,
        jpeg: bool = False,
        on_bytes: Callable[[int, int | None], None] = lambda *_: None,
    ) -> int:
        """Writes a file's bytes into `stream`. Returns how many. Raises Corrupt at the end if they are not the file."""
        return await self._download(media_id, thumbnail, size, jpeg, on_bytes).to_stream(stream)

    async def read(self, media_id: str, first: int = 0, last: int | None = None) -> bytes:
        """A file's bytes from `first` to `last`, both included; None: to its end. They have to fit into memory."""
        if first < 0 or (last is not None and last < first):
            raise Misuse("first and last are positions in the file, and first is not behind last")
        headers = {"Range": f"bytes={first}-{'' if last is None else last}"}
        async with self._api.open("GET", path_of("media", "download", media_id), headers=headers) as response:
            with self._api.naming_failures():
                answer = await self._api.wire.read(response)
        # A proxy may take no ranges. Then the whole file comes.
        return answer if response.status_code == 206 else answer[first : None if last is None else last + 1]

    def _download(
        self,
        media_id: str,
        thumbnail: bool,
        size: int | None,
        jpeg: bool,
        on_bytes: Callable[[int, int | None], None],
    ) -> Download:
        path = path_of("media", "download", media_id, *(["thumbnail"] if thumbnail else []))
        params = {} if size is None else {"size": size}
        return Download(
            self._api, path, on_bytes, params=params, headers={"Accept": "image/jpeg"} if thumbnail and jpeg else {}
        )

    async def info(self, media_id: str) -> MediaInfo:
        info: MediaInfo = await self._api.get("media", media_id, "info")
        return info

    def files(
        self,
        *,
        owner: str | None = None,
        type: MediaType | None = None,  # noqa: A002 (the API's name)
        room_id: str | None = None,
        room: str | None = None,
        scan_status: str | None = None,
        name: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        sort: Sort | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Page[MediaInfo], None]:
        """Pages of the files that you have uploaded, newest first, `limit` files in all.

        `owner`: for admins, whose: a subject, or `all`. A page may have few files, even none, and another follow.
        `room`: as `room_id`.
        """
        return self._api.pages(
            "media",
            limit=limit,
            cursor=cursor,
            owner=owner,
            type=type,
            room_id=_room(room_id, room),
            scan_status=scan_status,
            name=name,
            created_after=None if created_after is None else created_after.astimezone().isoformat(),
            created_before=None if created_before is None else created_before.astimezone().isoformat(),
            label=_labels(labels),
            sort=sort,
        )

    async def change(
        self,
        media_id: str,
        *,
        filename: str | None = None,
        tenant_scope: bool | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> MediaInfo:
        """Renames a file, says who may see it, or labels it. `labels`: all of them."""
        given = {"filename": filename, "tenant_scope": tenant_scope, "labels": None if labels is None else dict(labels)}
        changes = {name: value for name, value in given.items() if value is not None}
        info: MediaInfo = await self._api.call("PATCH", path_of("media", media_id), json=changes)
        return info

    async def label(
        self, media_id: str, labels: Mapping[str, str] | None = None, *, remove: Sequence[str] = ()
    ) -> MediaInfo:
        """Sets and removes single labels of a file; the others stay.

        It reads all labels and writes all: of two such calls at the same time, one may undo the other.
        """
        before = await self.info(media_id)
        had = before.get("labels", {})
        after = {key: value for key, value in (had | dict(labels or {})).items() if key not in remove}
        return before if after == had else await self.change(media_id, labels=after)

    async def delete(self, media_id: str) -> None:
        """Deletes a file for good, for everybody."""
        await self._api.call("DELETE", path_of("media", media_id))

    async def rescan(self, media_id: str) -> Job:
        """Scans a file again. For admins."""
        job: Job = await self._api.call("POST", path_of("media", media_id, "rescan"))
        return job

    # --- URLs without a token ----------------------------------------------------------------------------------------

    async def signed(
        self,
        media_id: str,
        *,
        thumbnail: bool = False,
        size: int | None = None,
        expires_in: int | None = None,
        via: Via | None = None,
    ) -> Signed:
        """A URL that needs no token, for `expires_in` seconds; by default five minutes. `size`: of its thumbnail."""
        wanted = {"thumbnail": "true" if thumbnail else None, "size": size, "expires_in": expires_in, "via": via}
        signed: Signed = await self._api.get("media", "signed", media_id, **wanted)
        return signed

    async def sign(
        self,
        media_ids: Sequence[str],
        *,
        thumbnail: bool = False,
        size: int | None = None,
        expires_in: int | None = None,
        via: Via = "store",
    ) -> list[SignedOne]:
        """The same for any number of files, in their order. One without a URL has an `error` instead."""
        wanted: dict[str, Any] = {"thumbnail": thumbnail, "expires_in": expires_in, "via": via}
        if size is not None:
            wanted["size"] = size
        found: list[SignedOne] = []
        for start in range(0, len(media_ids), MOST_SIGNED):
            ids = list(media_ids[start : start + MOST_SIGNED])
            found += await self._api.call("POST", path_of("media", "sign"), json={"media_ids": ids, **wanted})
        return found

    # --- rooms -------------------------------------------------------------------------------------------------------

    def room_files(
        self,
        room: str,
        *,
        type: MediaType | None = None,  # noqa: A002 (the API's name)
        cursor: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Page[RoomFile], None]:
        """Pages of the files of a room, newest first, `limit` files in all."""
        return self._api.pages("rooms", known_room(room), "files", limit=limit, cursor=cursor, type=type)

    async def attach(self, room: str, media_id: str) -> RoomFile:
        item: RoomFile = await self._api.call(
            "POST", path_of("rooms", known_room(room), "files"), json={"media_id": media_id}
        )
        return item

    async def detach(self, room: str, media_id: str) -> None:
        """Removes a file from a room; the file itself stays."""
        await self._api.call("DELETE", path_of("rooms", known_room(room), "files", media_id))

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def transcribe(
        self,
        file: File | None = None,
        *,
        media_id: str | None = None,
        filename: str | None = None,
        room_id: str | None = None,
        tenant_scope: bool = False,
        labels: Mapping[str, str] | None = None,
        language: str | None = None,
        translate: bool = False,
        word_timestamps: bool = False,
        prompt: str | None = None,
        hotwords: str | None = None,
        vad: bool = True,
        track: int | None = None,
        channel: int | None = None,
        split_channels: bool = False,
        multilingual: bool = False,
        on_bytes: OnBytes = lambda _: None,
    ) -> JobAccepted:
        """Queues the transcription of a `file`, or of one that was uploaded before, the `media_id`.

        `filename`, `room_id`, `tenant_scope` and `labels` are those of a `file`, as in `upload`.
        `translate`: into English. `track`, `channel`: from 1. `split_channels`: each channel is one speaker.
        `multilingual`: each segment has its language. `wait` has the transcript.
        """
        if (file is None) is (media_id is None):
            raise Misuse("give either a file or a media_id")
        of_the_file = _fields_of_a_file(room_id, tenant_scope, labels)
        if file is None and (of_the_file or filename is not None):
            given = "filename, room_id, tenant_scope and labels"
            raise Misuse(f"{given} are for a file that is sent; `change` and `attach` are for others")
        options = {
            "media_id": media_id,
            "language": language,
            "task": "translate" if translate else None,
            "word_timestamps": "true" if word_timestamps else None,
            "prompt": prompt,
            "hotwords": hotwords,
            "vad": None if vad else "false",
            "track": track,
            "channel": channel,
            "channels": "split" if split_channels else None,
            "multilingual": "true" if multilingual else None,
        }
        fields = of_the_file | {key: str(value) for key, value in options.items() if value is not None}
        job: JobAccepted
        if file is None:
            job = await Form(self._api, fields, None, on_bytes).post(path_of("transcribe"))
            return job
        with open_source(file, filename) as source:
            job = await Form(self._api, fields, source, on_bytes).post(path_of("transcribe"))
            return job

    async def job(self, job_id: str) -> Job:
        job: Job = await self._api.get("jobs", job_id)
        return job

    def jobs(
        self,
        *,
        kind: str | None = None,
        status: str | Sequence[str] | None = None,
        media_id: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Page[Job], None]:
        """Pages of your own jobs, newest first, `limit` jobs in all. `status`: one or several."""
        return self._api.pages("jobs", limit=limit, cursor=cursor, kind=kind, status=status, media_id=media_id)

    def search(
        self,
        words: str,
        *,
        room_id: str | None = None,
        room: str | None = None,
        owner: str | None = None,
        language: str | None = None,
        labels: Mapping[str, str] | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Page[SearchHit], None]:
        """Pages of places where something was said, the best first, `limit` places in all.

        `words`: words, `"a phrase"`, the beginning of a word as `word*`. `owner`: `me`, or a subject. `room`: as
        `room_id`.
        """
        return self._api.pages(
            "transcripts",
            "search",
            limit=limit,
            cursor=cursor,
            q=words,
            room_id=_room(room_id, room),
            owner=owner,
            language=language,
            label=_labels(labels),
        )

    async def cancel(self, job_id: str) -> Job:
        """Stops a job at its next segment."""
        job: Job = await self._api.call("DELETE", path_of("jobs", job_id))
        return job

    async def transcript(
        self,
        job_id: str,
        format: TranscriptFormat = "txt",  # noqa: A002
        *,
        max_chars: int | None = None,
        max_lines: int | None = None,
        max_seconds: float | None = None,
        word_highlights: bool = False,
    ) -> str:
        """The transcript of a completed job, as the API writes this format. The cues of `srt` and `vtt` can have
        another shape; `word_highlights` is for `vtt` of a job with `word_timestamps`.
        """
        shape = {
            "max_chars": max_chars,
            "max_lines": max_lines,
            "max_seconds": max_seconds,
            "word_highlights": "true" if word_highlights else None,
        }
        path = path_of("jobs", job_id, f"transcript.{format}")
        return (await self._api.read("GET", path, params=given(shape))).decode()

    async def follow(self, job_id: str) -> AsyncGenerator[Job | Segment, None]:
        """A job's states and segments as they come, until it has ended: by server-sent events, else one GET a second.

        A segment has `text`, a state `status`; a state by an event has only what changes. The last item is the job.
        """
        silence = Silence(self._api)
        streams = True
        last_event: str | None = None
        while True:
            if streams:
                try:
                    async with aclosing(self._api.events(path_of("jobs", job_id, "events"), last_event)) as events:
                        async for event_id, _, update in events:
                            last_event = event_id or last_event
                            if update and update.get("status") not in FINAL:
                                yield update  # type: ignore[misc]  # what it is, its members tell
                except Problem:
                    streams = False
                except Unreachable:
                    pass
            try:
                job = await self.job(job_id)
            except Unreachable as error:
                # The API may be restarting. The job goes on.
                await silence.lasts(error, 1)
            else:
                silence.ends()
                yield job
                if job["status"] in FINAL:
                    return
                await self._api.wire.pause(1)

    async def wait(self, job_id: str) -> Job:
        """The job once it has completed, with its result. Raises Failed if it fails or is cancelled."""
        last: Any = None
        async for update in self.follow(job_id):
            last = update
        if last["status"] != "completed":
            error = last["error"] or {}
            raise Failed(f"{job_id} {last['status']}" + (f": {error['detail']}" if error else ""))
        job: Job = last
        return job

    # --- events ------------------------------------------------------------------------------------------------------

    async def events(
        self,
        *,
        cursor: str | None = None,
        types: Sequence[str] = (),
        media_id: str | None = None,
        start: Literal["oldest", "now"] | None = None,
        limit: int | None = None,
    ) -> EventPage:
        """One page of events. A program that must miss none keeps `next_cursor` and asks again with it, also after a
        restart. Without `cursor` it begins at `start`, by default with the oldest.
        """
        wanted = {"cursor": cursor, "type": list(types), "media_id": media_id, "start": start, "limit": limit}
        page: EventPage = await self._api.page("/v1/events", wanted)
        return page

    async def watch(
        self,
        *,
        types: Sequence[str] = (),
        media_id: str | None = None,
        start: Literal["oldest", "now"] = "now",
    ) -> AsyncGenerator[Event, None]:
        """Events of files as they come, without end. However long the network or the API is away, it goes on behind the
        last one; only at the beginning something has to answer within a minute.

        Raises Problem also where events were missed (`cursor_expired`).
        """
        last: str | None = None
        silence = Silence(self._api)
        params = {"type": list(types), "start": start, **({} if media_id is None else {"media_id": media_id})}
        while True:
            try:
                async with aclosing(self._api.events("/v1/events", last, params)) as events:
                    async for event_id, _, event in events:
                        last = event_id or last
                        silence.ends()
                        if event:
                            yield event  # type: ignore[misc]  # as the API has it
            except (Unreachable, Problem) as error:
                if isinstance(error, Problem) and (last is None or not is_later(error)):
                    raise
                await silence.lasts(error, 1, patience=PATIENCE if last is None else math.inf)
            else:
                await self._api.wire.pause(1)

    # --- the tenant --------------------------------------------------------------------------------------------------

    async def usage(self) -> Usage:
        usage: Usage = await self._api.get("usage")
        return usage


class AsyncClient(Calls):
    """One tenant's API at `base`, called with `token`, for programs with an event loop.

    `on_wait(why, seconds)` is called before each pause that the API asks for, and once where nothing answers. `http`: a
    client with settings of your own (a proxy, a certificate). Raises Misuse if `base` is no address or `token`
    cannot be one.
    """

    def __init__(
        self,
        base: str,
        token: str | None,
        *,
        on_wait: OnWait | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(Exchange(base, token, Awaiting(http), on_wait))

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._api.wire.end()


def _room(room_id: str | None, room: str | None) -> str | None:
    named = room if room_id is None else room_id
    return None if named is None else known_room(named)


def _fields_of_a_file(room_id: str | None, tenant_scope: bool, labels: Mapping[str, str] | None) -> dict[str, str]:
    """What an upload says of its file beside the name."""
    fields = {"tenant_scope": "true"} if tenant_scope else {}
    if room_id is not None:
        fields["room_id"] = known_room(room_id)
    if labels:
        fields["labels"] = json.dumps(dict(labels), sort_keys=True)
    return fields


def _labels(labels: Mapping[str, str] | None) -> list[str] | None:
    return [f"{key}={value}" for key, value in labels.items()] if labels else None


def _blocking(method: Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate["Client", P], T]:
    @functools.wraps(method)
    def call(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return now(method(client._calls, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[Calls, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate["Client", P], Generator[T, None, None]]:
    @functools.wraps(method)
    def call(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return one_by_one(method(client._calls, *args, **kwargs))

    return call


class Client:
    """The same for programs without an event loop: its methods block, and its lists are iterated with `for`."""

    def __init__(
        self, base: str, token: str | None, *, on_wait: OnWait | None = None, http: httpx.Client | None = None
    ) -> None:
        self._calls = Calls(Exchange(base, token, Blocking(http), on_wait))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        now(self._calls._api.wire.end())

    upload = _blocking(Calls.upload)
    download = _blocking(Calls.download)
    download_to = _blocking(Calls.download_to)
    read = _blocking(Calls.read)
    info = _blocking(Calls.info)
    files = _iterating(Calls.files)
    change = _blocking(Calls.change)
    label = _blocking(Calls.label)
    delete = _blocking(Calls.delete)
    rescan = _blocking(Calls.rescan)
    signed = _blocking(Calls.signed)
    sign = _blocking(Calls.sign)
    room_files = _iterating(Calls.room_files)
    attach = _blocking(Calls.attach)
    detach = _blocking(Calls.detach)
    transcribe = _blocking(Calls.transcribe)
    job = _blocking(Calls.job)
    jobs = _iterating(Calls.jobs)
    search = _iterating(Calls.search)
    cancel = _blocking(Calls.cancel)
    transcript = _blocking(Calls.transcript)
    follow = _iterating(Calls.follow)
    wait = _blocking(Calls.wait)
    events = _blocking(Calls.events)
    watch = _iterating(Calls.watch)
    usage = _blocking(Calls.usage)
