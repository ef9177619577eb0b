"""Small JSON bodies of requests."""

from codecs import BOM_UTF8
from contextlib import aclosing
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from media_api.requests import wrong_input
from media_api.requests.body import chunks, media_type_of
from media_api.services import Services
from media_core.errors import Refused

M = TypeVar("M", bound=BaseModel)

MOST_TOLD: Final = 10
"""Members that are wrong, in one answer."""


def json_request(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a body that `read_json` reads.

    The document has the models to which this one refers, as those of a parameter or of an answer.
    """
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


async def read_json(services: Services, request: Request, model: type[M], *, shape: str, at_most: int) -> M:
    """The body as a `model`. `shape`: an example of it, for messages. `at_most`: bytes.

    Raises Refused `unsupported_media_type`, `invalid_request`, `request_timeout`.

    Not FastAPI's `max_body_size`: what is announced too long it answers with plain text, past every handler of ours.
    """
    if media_type_of(request) != "application/json":
        raise Refused("unsupported_media_type", f"Send JSON, Content-Type: application/json: {shape}.")
    body = await _body(request, services.settings.server.body_idle_seconds, at_most)
    try:
        return model.model_validate_json(body.removeprefix(BOM_UTF8))  # .NET's StreamWriter begins with one
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        wrong = wrong_input.of_members(model.model_fields, found)[:MOST_TOLD]
        said = f" {wrong_input.told(wrong)}" if wrong else ""
        if found[0]["type"] == "json_invalid":
            said = f" It is not JSON: {found[0]['ctx']['error']}."
        raise Refused("invalid_request", f"The body must be {shape}.{said}", errors=wrong) from None


async def _body(request: Request, idle_seconds: float, at_most: int) -> bytes:
    body = bytearray()
    async with aclosing(chunks(request, idle_seconds)) as received:
        async for chunk in received:
            body += chunk
            if len(body) > at_most:
                raise Refused("invalid_request", f"The body may have at most {at_most} bytes.")
    return bytes(body)
