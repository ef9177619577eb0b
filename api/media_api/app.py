"""The tenant's HTTP application: routes, errors, and their OpenAPI description."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from media_api.answers import problems
from media_api.answers.methods import HeadAsGet
from media_api.metrics import Metrics
from media_api.middleware.cors import Cors
from media_api.middleware.every_request import InFlight, RequestMiddleware
from media_api.models import Problem, Transcript
from media_api.page import page_of
from media_api.routes import (
    docs,
    events,
    health,
    jobs,
    media,
    media_list,
    openai_audio,
    page,
    rooms,
    search,
    signed,
    signing,
    transcribe,
    tus,
    upload_draft,
    usage,
)
from media_api.services import Services, opened, services_at
from media_api.settings import Settings
from media_core.errors import Refused

SUSPENDED_RETRY_AFTER: Final = 60
CLEAN_UP_SECONDS: Final = 10

DESCRIPTION: Final = """\
Every call under `/v1` takes `Authorization: Bearer <token>`. A success is `{"data": …}`; a list has `next_cursor`
beside it. An error is an RFC 9457 problem, whose `code` is stable. What you may not see is answered 404, like what does
not exist. HEAD works wherever GET does. Quote `X-Request-Id` when you ask for help. A time is in UTC, as RFC 3339 has
it: `2026-05-17T14:00:00.123456Z`, without the fraction where that is zero.

A query parameter that a call does not know is refused, and so is one that comes twice where the call takes one. One
that is a list comes once for each value: `label=a=1&label=b=2`, not `label[]=…`. Passed over are `_…`, `utm_…` and what
else keeps answers out of caches or counts clicks. These calls pass over whatever they do not know: upload, info,
download, thumbnail, signed, transcribe, one job, a room's files (not attaching one), uploads in several requests, those
in OpenAI's shapes, and health."""

TAGS: Final = [
    {"name": "Media", "description": "Files: upload, look at, download, sign, delete."},
    {"name": "Uploads in several requests", "description": "For large files and poor networks, by tus 1.0.0."},
    {"name": "Rooms", "description": "The files attached in a room, for a client's Files tab."},
    {"name": "Jobs", "description": "Transcription, its progress and its results."},
    {"name": "Search", "description": "Finds words that were spoken in recordings."},
    {"name": "Events", "description": "What happens to files, as it happens."},
    {"name": "Usage", "description": "The quota, and how much of it is used."},
    {"name": "Health", "description": "For those who run the service."},
]


async def _not_suspended(request: Request) -> None:
    if (await services_at(request).policy.current()).suspended:
        raise Refused(
            "suspended",
            "This tenant is suspended; its files are kept, and nothing can be read or written. Ask its operator.",
            retry_after=SUSPENDED_RETRY_AFTER,
        )


def create_app(settings: Settings | None, metrics: Metrics | None = None, *, processes: int = 1) -> FastAPI:
    """The app of one process, of the `processes` that serve the tenant in this container.

    Without `settings` the app can only describe itself: this is for generating the reference.
    """
    measured, in_flight = metrics or Metrics(), InFlight()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings is None:
            raise RuntimeError("this app was made for its description only")
        async with opened(settings, measured, processes) as services:
            app.state.services = services
            yield
            # The server has cut off requests that took too long; they are still giving back what they hold.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLEAN_UP_SECONDS):
                    await in_flight.ended()

    app = FastAPI(
        title="Media and files API",
        version="1.0.0",
        summary="Upload, download, transcribe, and browse files attached in a room.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    drafts = [upload_draft] if settings is not None and settings.upload.draft else []
    # Those of the draft come before those of tus, which have the same paths. No router stands between them and the app:
    # it would be searched, too, for every request.
    for part in (
        *(*drafts, media_list, media, tus, signing, rooms, transcribe, openai_audio),
        *(jobs, search, events, usage, signed),
    ):
        app.include_router(part.router, dependencies=[Depends(_not_suspended)])
    for open_part in (health, docs):
        app.include_router(open_part.router)
    if settings is not None and (files := page_of(settings)) is not None:
        app.include_router(page.router_of(files))
    problems.install(app)
    app.add_exception_handler(HTTPException, openai_audio.of_routing)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestMiddleware, metrics=measured, in_flight=in_flight)
    if settings is not None and settings.cors.origins:
        app.add_middleware(Cors, origins=settings.cors.origins, max_age=settings.cors.max_age_seconds)
    app.openapi = lambda: _description(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return app


def services_of(app: FastAPI) -> Services | None:
    """None before the app has started."""
    return getattr(app.state, "services", None)


def _operation_id(route: APIRoute) -> str:
    return route.name


def _description(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            tags=app.openapi_tags,
            routes=app.routes,
        )
        schemas = described["components"]["schemas"]
        for model in (Problem, Transcript):
            described_model = model.model_json_schema(ref_template="#/components/schemas/{model}")
            described_model.pop("$defs", None)
            schemas[model.__name__] = described_model
        # FastAPI adds its own 422 to every route with a parameter. Ours is a problem; routes that can raise it say so.
        for calls in described["paths"].values():
            for call in calls.values():
                # Else the name of the function stands there in words, which says no more than the path.
                call["summary"], call["description"] = _first_sentence(call["description"])
                for parameter in call.get("parameters", []):
                    parameter["schema"] = _without_null(parameter["schema"])
                if "application/json" in call["responses"].get("422", {}).get("content", {}):
                    del call["responses"]["422"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = described
    return app.openapi_schema


def _first_sentence(text: str) -> tuple[str, str]:
    """The first sentence in one line, as plain text without its full stop, and the text that follows it."""
    first, _, rest = re.split(r"\.(\s+|$)", text, maxsplit=1)
    return " ".join(first.replace("`", "").split()), rest


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter can be left out, but it cannot be null, as FastAPI describes what has the default None."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return schema if len(kinds) != 1 else {**kinds[0], **{k: v for k, v in schema.items() if k != "anyOf"}}
