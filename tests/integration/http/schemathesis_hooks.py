"""Values for schemathesis where the OpenAPI document names a format, or a kind of content, that no grammar describes.

`MEDIA_KNOWN` has ids that exist, as JSON: format -> ids.
"""

import base64
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st

from media_api.requests.identifiers import LABEL_KEY
from media_core.transcripts.formats import LANGUAGES

SOUND = Path(__file__).parents[2] / "fixtures" / "whisper-tiny-words" / "samples" / "tone_no_speech.wav"
KNOWN: dict[str, list[str]] = json.loads(os.environ.get("MEDIA_KNOWN", "{}"))
NO_FLAGS = ("file", "track", "channel")
"""Fields of a form in which 0 and 1 are numbers."""

printable = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), max_size=40) | st.just("a b")
base64_text = st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode())

for name, ids in KNOWN.items():
    schemathesis.openapi.format(name, st.sampled_from(ids))
schemathesis.openapi.format("room-id", printable.filter(lambda room: room not in ("", ".", "..")))
label_keys = st.from_regex(LABEL_KEY, fullmatch=True)
schemathesis.openapi.format("label", st.builds("{}={}".format, label_keys, printable))
schemathesis.openapi.format("label-value", printable)
schemathesis.openapi.format("labels", st.dictionaries(label_keys, printable, max_size=3).map(json.dumps))
schemathesis.openapi.format("form-text", printable)
schemathesis.openapi.format("language", st.sampled_from(["", *LANGUAGES]))
schemathesis.openapi.format("digest", st.sampled_from(["unixsum=30637", "sha-512=:AAAA:"]))
schemathesis.openapi.format(
    "tus-checksum",
    base64_text.map(lambda text: f"sha1 {base64.b64encode(hashlib.sha1(b'').digest()).decode()}"),  # noqa: S324 (tus has it)
)
schemathesis.openapi.format("tus-metadata", base64_text.map(lambda text: f"filename {text},is_confidential"))
schemathesis.openapi.format("tus-concat", st.just("partial"))
schemathesis.openapi.format("count-of-bytes", st.integers(1, 10_000).map(str))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Makes the call one whose answer the document decides."""
    # A key belongs to the first content that is sent with it: none is sent twice.
    key = (case.headers or {}).get("idempotency-key")
    if isinstance(key, str) and 0 < len(key) <= 255:
        case.headers["idempotency-key"] = secrets.token_hex(16)
    # A form's flags are texts, and 0 and 1 are among those that are read.
    if isinstance(case.body, dict) and case.media_type == "multipart/form-data":
        flags = {name: value for name, value in case.body.items() if name not in NO_FLAGS and type(value) is int}
        case.body.update({name: 2 for name, value in flags.items() if value in (0, 1)})


schemathesis.openapi.media_type("audio/wav", st.just(SOUND.read_bytes()))
schemathesis.openapi.media_type("application/offset+octet-stream", st.binary(max_size=100))


@schemathesis.check
def the_token_is_taken(
    _context: schemathesis.CheckContext, response: schemathesis.Response, _case: schemathesis.Case
) -> None:
    sent = response.request.headers.get("Authorization")
    assert response.status_code != 401 or sent != f"Bearer {os.environ['MEDIA_TOKEN']}"
