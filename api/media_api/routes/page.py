"""The page of files at the api's root, where the tenant has it. Its files are public; what they show is not."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from media_api.page import CONFIGURATION, EACH_TIME, HASHED, INDEX, PageOfFiles
from media_core.errors import not_found


def router_of(page: PageOfFiles) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/", response_class=Response)
    async def page_index(request: Request) -> Response:
        return _found(page.respond(request, INDEX))

    @router.get(f"/{CONFIGURATION}", response_class=Response)
    async def page_configuration() -> Response:
        return JSONResponse(page.configuration, headers={"Cache-Control": EACH_TIME})

    @router.get(f"/{HASHED}{{name:path}}", response_class=Response)
    async def page_asset(request: Request, name: str) -> Response:
        return _found(page.respond(request, HASHED + name))

    async def page_file(request: Request) -> Response:
        return _found(page.respond(request, request.url.path.removeprefix("/")))

    for name in page.names:
        router.add_api_route(f"/{name}", page_file, methods=["GET"], response_class=Response, name=name)
    return router


def _found(answer: Response | None) -> Response:
    if answer is None:
        raise not_found()
    return answer
