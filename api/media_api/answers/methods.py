"""Which methods an address takes: `Allow` names all of them, and HEAD works wherever GET does (RFC 9110, 9.3.2).

The router knows one route at a time. So its `Allow` has one route's methods, and a HEAD finds no route that is for GET.
"""

from fastapi.routing import RouteContext, iter_route_contexts
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def allowed(scope: Scope) -> set[str]:
    """Those of the routes whose path it is; where a path with parameters matches too, the other one counts.

    What stands for clients that lack a method (`X-HTTP-Method-Override`) is not named.
    """
    here = _routes(scope)
    here = [route for route in here if route.include_in_schema] or here
    nearest = min((len(route.param_convertors) for route in here), default=0)
    found = {method for route in here if len(route.param_convertors) == nearest for method in route.methods or ()}
    return found | {"HEAD"} if "GET" in found else found


def _routes(scope: Scope) -> list[RouteContext]:
    path = scope["path"]
    return [route for route in iter_route_contexts(scope["app"].routes) if route.path_regex.match(path)]


class HeadAsGet:
    """Serves HEAD by the route for GET, where there is none for HEAD, and leaves out the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or not _is_for_get(scope):
            await self._app(scope, receive, send)
            return
        ended = False

        async def without_body(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                await send(message)
            elif not ended:
                ended = True  # a stream would go on: its route learns by `receive` that nobody reads it
                await send({"type": "http.response.body", "body": b""})

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, without_body)
        finally:
            scope.update({key: as_get[key] for key in ("route", "path_params") if key in as_get})


def _is_for_get(scope: Scope) -> bool:
    methods = [route.methods or () for route in _routes(scope)]
    return any("GET" in each for each in methods) and not any("HEAD" in each for each in methods)
