"""The page of files (`page/`): its built files in memory, and what a browser may do with them.

The page is one more client of the API. It has no session, no cookie and no inline script, and it loads nothing but its
own files, the tenant's content, and the answers of the API and of the issuer that signs people in.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from fastapi import Request, Response

from media_api.answers import downloads
from media_api.requests.headers import listed
from media_api.settings import Settings

INDEX: Final = "index.html"
CONFIGURATION: Final = "page.json"
HASHED: Final = "assets/"
"""Folder of the files whose names bear a hash of their content."""
FOR_EVER: Final = "public, max-age=31536000, immutable"
EACH_TIME: Final = "no-cache"
ENCODINGS: Final = {"br": ".br", "gzip": ".gz"}
"""Content-Encoding -> the ending of such a copy, the smallest first."""
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""Files of other types are not served."""

_log = structlog.stdlib.get_logger("media.api")


@dataclass(frozen=True)
class _File:
    content_type: str
    digest: str
    encoded: Mapping[str, bytes]
    """Content-Encoding -> bytes; `identity` is always there."""


class PageOfFiles:
    """The built page. Everything is read once: a new build takes effect when the api starts again."""

    def __init__(self, folder: Path, tenant_id: str, settings: Settings) -> None:
        self._files = dict(_read(folder))
        self.configuration = _configuration(tenant_id, settings)
        self._headers = {
            "Content-Security-Policy": _policy(self.configuration, settings),
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(self), geolocation=(), microphone=(self), payment=(), usb=()",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    @property
    def names(self) -> Sequence[str]:
        """Of the files at its root, beside those in folders."""
        return [name for name in self._files if "/" not in name and name != CONFIGURATION]

    def respond(self, request: Request, name: str) -> Response | None:
        """The file, in an encoding that the client takes. None: there is no such file."""
        file = self._files.get(name)
        if file is None:
            return None
        accepted = listed(request, "accept-encoding")
        encoding = next((each for each in file.encoded if _takes(accepted, each)), "identity")
        etag = f'"{file.digest}-{encoding}"'
        headers = {
            **self._headers,
            "Cache-Control": FOR_EVER if name.startswith(HASHED) else EACH_TIME,
            "ETag": etag,
            "Vary": "Accept-Encoding",
        }
        if downloads.not_modified(listed(request, "if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        content = file.encoded[encoding]
        headers["Content-Type"] = file.content_type
        if encoding != "identity":
            headers["Content-Encoding"] = encoding
        return Response(content, headers=headers)


def page_of(settings: Settings) -> PageOfFiles | None:
    """The page that the settings turn on. None: there is none, or its folder holds no built page, which is logged."""
    if not settings.page.page:
        return None
    folder = settings.page.page_folder
    if folder is None or not (folder / INDEX).is_file():
        _log.warning("page_missing", folder=str(folder or ""), detail="MEDIA_PAGE_FOLDER holds no built page")
        return None
    return PageOfFiles(folder, settings.tenant.tenant_id, settings)


def _read(folder: Path) -> Sequence[tuple[str, _File]]:
    files = []
    for path in sorted(folder.rglob("*")):
        content_type = TYPES.get(path.suffix)
        if content_type is None or not path.is_file():
            continue
        data = path.read_bytes()
        copies = ((encoding, path.with_name(path.name + ending)) for encoding, ending in ENCODINGS.items())
        encoded = {encoding: copy.read_bytes() for encoding, copy in copies if copy.is_file()}
        digest = hashlib.sha256(data).hexdigest()[:32]
        files.append((path.relative_to(folder).as_posix(), _File(content_type, digest, {**encoded, "identity": data})))
    return files


def _takes(accepted: str | None, encoding: str) -> bool:
    """Whether Accept-Encoding names the encoding (RFC 9110, 12.5.3)."""
    for part in (accepted or "").lower().split(","):
        name, _, parameter = part.partition(";")
        if name.strip() == encoding:
            return parameter.replace(" ", "").rstrip("0.") != "q="
    return False


def _configuration(tenant_id: str, settings: Settings) -> dict[str, Any]:
    """`page.json`: what the page has to know before it can sign somebody in."""
    issuer, client_id = settings.auth.oidc_issuer, settings.page.page_oidc_client_id
    signs_in = settings.auth.oidc_jwks_uri is not None and client_id is not None
    oidc = {"issuer": issuer, "client_id": client_id, "scopes": settings.page.page_oidc_scopes} if signs_in else None
    return {"tenant": tenant_id, "oidc": oidc, "store_origins": _store_origins(settings)}


def _store_origins(settings: Settings) -> list[str]:
    """Where signed URLs lead: to the bucket, and to the api by its public name."""
    urls = [settings.store.public_url]
    if settings.store.store == "s3":
        urls.insert(0, settings.store.s3.public_endpoint or settings.store.s3.endpoint)
    return list(dict.fromkeys(map(_origin, urls)))


def _policy(configuration: Mapping[str, Any], settings: Settings) -> str:
    store = " ".join(configuration["store_origins"])
    issuer = []
    if configuration["oidc"] is not None:
        issuer = [_origin(configuration["oidc"]["issuer"]), *settings.page.page_oidc_origins]
    connect = " ".join(dict.fromkeys([*configuration["store_origins"], *issuer]))
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; manifest-src 'self'; "
        f"worker-src 'self'; img-src 'self' blob: data: {store}; media-src 'self' blob: data: {store}; "
        f"frame-src blob:; connect-src 'self' blob: {connect}; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'"
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
