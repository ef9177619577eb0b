"""The rows of large files: one client, one file at a time."""

import asyncio
from collections.abc import Callable

from bench.clients import UPLOAD, Client, Content, name_in
from bench.contenders.tusd import resumable_upload
from bench.measure import BYTES, Contender, Effort, Goal, Row, compare
from bench.parts import Parts, Tenant, stored
from bench.resources import MIB, Resources

PIECE = 8 * MIB
IN_PIECES = Goal(must=0.8, aim=1)


class _Sent:
    """What one turn left with a server, and how to take it away again."""

    def __init__(self, remove: Callable[[list[str]], object]) -> None:
        self._remove = remove
        self._names: list[str] = []

    def note(self, name: str) -> None:
        self._names.append(name)

    def tidy(self) -> None:
        self._remove(self._names)
        self._names = []


def uploads(
    connect: Callable[[], Client],
    send: Callable[[Client, Content], str],
    remove: Callable[[list[str]], object],
    content: Callable[[], Content],
    used: Resources,
    beside: Resources | None = None,
) -> Contender:
    """One upload a turn, which is removed after it; `send` returns its name. `content` is not measured."""
    sent = _Sent(remove)
    ready: list[Content] = []

    def work() -> float:
        new = ready.pop()
        with connect() as client:
            sent.note(send(client, new))
        return new.size

    return Contender(work, used, sent.tidy, lambda: ready.append(content()), beside)


def downloads(connect: Callable[[], Client], path: str, used: Resources, beside: Resources | None = None) -> Contender:
    """One download a turn."""

    def work() -> float:
        with connect() as client:
            return client.download(path)

    return Contender(work, used, beside=beside)


def our_uploads(
    tenant: Tenant, content: Callable[[], Content], sha256: bytes | None = None, beside: Resources | None = None
) -> Contender:
    return uploads(tenant.client, form(UPLOAD, sha256), tenant.delete, content, tenant.used, beside)


def form(path: str, sha256: bytes | None = None) -> Callable[[Client, Content], str]:
    """An upload as a multipart form."""
    return lambda client, content: name_in(client.upload(content, content.size, path=path, sha256=sha256))


async def upload(parts: Parts, effort: Effort) -> list[Row]:
    def new() -> Content:
        return Content(effort.large)

    bare, fastapi = parts.bare, parts.fastapi
    with parts.tusd() as tusd:
        contenders = {"ours": our_uploads(parts.tenant, new)}
        if tusd:
            contenders["tusd"] = uploads(tusd.client, tusd.upload, tusd.remove, new, tusd.used)
        contenders["FastAPI"] = uploads(fastapi.client, form("/upload"), fastapi.remove, new, fastapi.used)
        contenders["bare"] = uploads(bare.client, form("/store"), bare.remove, new, bare.used)
        seen = await compare(effort.turns, contenders)
    legends = {
        "tusd": "POST and one PATCH into its file store; no hash, no fsync, no row; no check of the caller",
        "FastAPI": "UploadFile; no hash, no fsync, no row",
        "bare": "socket to file, fsync, rename; no hash",
    }
    what = f"upload, {effort.large // MIB} MiB"
    return [Row(what, BYTES, seen["ours"], name, seen.get(name), legend) for name, legend in legends.items()]


async def resumable(parts: Parts, effort: Effort) -> list[Row]:
    """By tus, one PATCH after the other on one connection."""

    def new() -> Content:
        return Content(effort.gigabyte)

    def ours(client: Client, content: Content) -> str:
        _, last = resumable_upload(client, "/v1/media/uploads", content, PIECE)
        return last.headers["upload-media-id"]

    with parts.tusd() as tusd:
        tenant = parts.tenant
        contenders = {
            "ours": uploads(tenant.client, ours, tenant.delete, new, tenant.used),
            "form": our_uploads(tenant, new),
        }
        if tusd:
            contenders["tusd"] = uploads(
                tusd.client,
                lambda client, content: tusd.upload_in_pieces(client, content, PIECE),
                tusd.remove,
                new,
                tusd.used,
            )
        seen = await compare(effort.turns, contenders)
    legends = {
        "form": "ours, the same bytes in one form",
        "tusd": "the same pieces into its file store; no hash, no fsync, no row; no check of the caller",
    }
    what = f"upload, {effort.gigabyte // MIB} MiB in pieces of {PIECE // MIB}"
    return [Row(what, BYTES, seen["ours"], name, seen.get(name), legend, IN_PIECES) for name, legend in legends.items()]


async def download(parts: Parts, effort: Effort) -> list[Row]:
    content = Content(effort.large)
    tenant, bare, fastapi = parts.tenant, parts.bare, parts.fastapi
    with stored(parts, content) as one, parts.tusd() as tusd:
        contenders = {"ours": downloads(tenant.client, f"/v1/media/download/{one.media_id}", tenant.used)}
        if tusd:
            with tusd.client() as client:
                path = tusd.upload(client, content)
            contenders["tusd"] = downloads(tusd.client, path, tusd.used)
        contenders["FastAPI"] = downloads(fastapi.client, f"/{one.name}", fastapi.used)
        contenders["bare"] = downloads(bare.client, f"/{one.name}", bare.used)
        seen = await compare(effort.turns, contenders)
    legends = {"tusd": "its GET, by Go's sendfile", "FastAPI": "Starlette's FileResponse", "bare": "sendfile"}
    what = f"download, {effort.large // MIB} MiB"
    return [Row(what, BYTES, seen["ours"], name, seen.get(name), legend) for name, legend in legends.items()]


async def duplicate(parts: Parts, effort: Effort) -> list[Row]:
    """Of a content that the tenant has."""
    content, tenant, bare = Content(effort.large), parts.tenant, parts.bare
    with tenant.client() as client:
        original = name_in(client.upload(content, content.size))

    def hashed() -> float:
        with bare.client() as client:
            client.upload(content, content.size, path="/hash")
        return content.size

    contenders = {
        "duplicate": our_uploads(tenant, lambda: content),
        "duplicate, digest announced": our_uploads(tenant, lambda: content, content.sha256()),
        "bare": Contender(hashed, bare.used),
    }
    seen = await compare(effort.turns, contenders)
    await asyncio.to_thread(tenant.delete, [original])
    legend = "socket to sha-256, which has to be known"
    return [
        Row(f"{what}, {effort.large // MIB} MiB", BYTES, seen[what], "bare", seen["bare"], legend)
        for what in contenders
        if what != "bare"
    ]
