"""`/openapi.json`, and `/docs`: Swagger UI from files in this installation, so that it works without the internet."""

import asyncio
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse

from media_core.errors import not_found

router = APIRouter(include_in_schema=False)

_FILES: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
# The page's start script is inline. It shows an answer's picture or sound from a blob: URL. Nothing is loaded from
# elsewhere.
_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)


@router.get("/openapi.json")
async def description(request: Request) -> Response:
    """Made at the first call, which takes a quarter of a second: in a thread, so that others are served meanwhile."""
    return JSONResponse(await asyncio.to_thread(request.app.openapi))


@router.get("/docs")
async def docs() -> Response:
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Media and files API",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
        # Swagger's validator is a web service: the page would send it the description's address.
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True, "validatorUrl": None},
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@router.get("/docs/{name}")
async def docs_file(name: str) -> Response:
    if name not in _FILES:
        raise not_found()
    content = files("fastapi_swagger.resources").joinpath(name).read_bytes()
    return Response(content, media_type=_FILES[name], headers={"Cache-Control": "public, max-age=86400"})
