"""Writes all that is generated from the code: `make docs`. A test compares it with what stands there, so it stays true.

docs/configuration.md    from the settings classes: each attribute, its environment variable, default and docstring
docs/http-api.md         from the API's OpenAPI document
docs/openapi.json        that document itself
docs/mediatenant.md      from the CRD's schema
crds/mediatenants.yaml   the CRD, from the model of the spec; the chart carries a copy
cli/mediactl/models.py   the types of mediactl's results, from the OpenAPI document
"""

import ast
import importlib
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from media_api.app import create_app
from media_operator.tenant import crd

ROOT = Path(__file__).parents[1]
SETTINGS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Every process of a tenant", "media_core.settings", ()),
    ("Object store", "media_core.store", ()),
    ("Object store: S3", "media_core.store.s3_settings", ()),
    ("The api", "media_api.settings", ()),
    ("Workers", "media_workers.settings", ()),
    ("The operator", "media_operator.settings", ()),
    ("`make run`", "media_operator.settings", ("RunSettings",)),
)
"""Title, module and the names of its classes; without names, those that no other entry names."""
METHODS = ("get", "head", "post", "put", "patch", "delete")


@cache
def attribute_docs(cls: type) -> dict[str, str]:
    """The string that follows each attribute in the class body, which Python itself throws away."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 (a class's source is a class)
    docs = {}
    for declared, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(declared, ast.AnnAssign)
            and isinstance(declared.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs[declared.target.id] = " ".join(str(following.value.value).split())
    return docs


def settings_of(module_name: str, names: tuple[str, ...] = ()) -> Iterator[type[BaseSettings]]:
    module = importlib.import_module(module_name)
    elsewhere = {name for _, other, named in SETTINGS if other == module_name and named != names for name in named}
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, BaseSettings)
            and value.__module__ == module_name
            and value.model_fields
            and (value.__name__ in names if names else value.__name__ not in elsewhere)
        ):
            yield value


def configuration() -> str:
    lines = [
        "# Configuration",
        "",
        "Every setting is an environment variable. Generated from the settings classes by `make docs`; do not edit.",
        "",
        "On a cluster nobody sets them by hand: the chart sets those of the operator from its values, and the operator "
        "sets those of a tenant's processes from its own and from the [MediaTenant](mediatenant.md). `make run` passes "
        "its environment on to the api and the workers, where a variable wins over the manifest.",
    ]
    for title, module_name, names in SETTINGS:
        lines += ["", f"## {title}"]
        for cls in settings_of(module_name, names):
            docs = attribute_docs(cls)
            about = inspect.getdoc(cls) or ""
            lines += ["", f"### {cls.__name__}", "", " ".join(about.split()), ""]
            lines += ["| variable | default | meaning |", "|---|---|---|"]
            for name, info in cls.model_fields.items():
                variable = str(info.validation_alias or f"{cls.model_config.get('env_prefix', '')}{name}").upper()
                default = "required" if info.default is PydanticUndefined else _default(info.default)
                lines.append(f"| `{variable}` | {default} | {docs.get(name, '')} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    return f"`{value}`" if str(value) not in ("", "None", "()") else "none"


def http_api(document: dict[str, Any]) -> str:
    lines = [
        "# HTTP API",
        "",
        "Generated from the API's OpenAPI document (`docs/openapi.json`) by `make docs`; do not edit. "
        "A running tenant shows the same at `/docs`.",
        "",
        document["info"]["description"].strip(),
        "",
        f"**The token.** {document['components']['securitySchemes']['bearer']['description'].strip()}",
        "",
        "## Calls",
    ]
    for tag in document["tags"]:
        lines += ["", f"**{tag['name']}.** {tag['description']}", "", "| call | what it is |", "|---|---|"]
        lines += [
            f"| [{method.upper()} {path}](#{_anchor(f'{method} {path}')}) | {operations[method]['summary']} |"
            for path, operations in document["paths"].items()
            for method in METHODS
            if tag["name"] in operations.get(method, {}).get("tags", [])
        ]
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                lines += _operation(document, path, method, operations[method])
    lines += ["", "## Schemas"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines) + "\n"


def _anchor(title: str) -> str:
    """What a host of the repository makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> list[str]:
    lines = ["", f"## {method.upper()} {path}", "", f"**{operation['summary']}.**"]
    if operation.get("description"):
        lines += ["", operation["description"].strip()]
    if parameters := operation.get("parameters"):
        lines += ["", "| parameter | in | type | meaning |", "|---|---|---|---|"]
        for parameter in parameters:
            required = " (required)" if parameter.get("required") else ""
            lines.append(
                f"| `{parameter['name']}`{required} | {parameter['in']} | {_type(parameter['schema'])} | "
                f"{_one_line(parameter.get('description') or parameter['schema'].get('description', ''))} |"
            )
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolve(document, content["schema"])
        lines += ["", f"Body: `{media_type}`"]
        if "properties" in schema:
            lines += ["", "| field | type | meaning |", "|---|---|---|"]
        for name, field in schema.get("properties", {}).items():
            required = " (required)" if name in schema.get("required", []) else ""
            lines.append(f"| `{name}`{required} | {_type(field)} | {_one_line(field.get('description', ''))} |")
    lines += ["", "| status | meaning | body |", "|---|---|---|"]
    for status, response in operation["responses"].items():
        bodies = ", ".join(
            f"`{media_type}` {_type(content.get('schema', {}))}".strip()
            for media_type, content in response.get("content", {}).items()
        )
        lines.append(f"| {status} | {_one_line(response.get('description', ''))} | {bodies} |")
    return lines


def _schema(name: str, schema: dict[str, Any]) -> list[str]:
    lines = ["", f"### {name}", ""]
    if schema.get("description"):
        lines += [_one_line(schema["description"]), ""]
    if "properties" not in schema:
        return [*lines, _type(schema)]
    lines += ["| field | type | meaning |", "|---|---|---|"]
    for field, about in schema["properties"].items():
        lines.append(f"| `{field}` | {_type(about)} | {_one_line(about.get('description', ''))} |")
    return lines


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        resolved: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return resolved
    return schema


def _type(schema: dict[str, Any]) -> str:
    """One word or two for a JSON schema."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = str(schema.get("type", ""))
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _one_line(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


MODELS = '''\
"""What the API answers, as dicts. Generated from its OpenAPI document by `make docs`; do not edit.

Times are RFC 3339 texts. A newer API may answer with more members than are named here.
"""

from typing import Generic, Literal, NotRequired, TypedDict, TypeVar

T = TypeVar("T")


class Page(TypedDict, Generic[T]):
    """A page of a list."""

    data: list[T]
    next_cursor: str | None
    """Asks for the next one; None on the last."""
'''
NOT_ANSWERED = ("Health", "Problem")


def models(document: dict[str, Any]) -> str:
    parts = [MODELS]
    for name, schema in sorted(document["components"]["schemas"].items()):
        if name.startswith(("Data_", "Page_")) or name in NOT_ANSWERED or "properties" not in schema:
            continue
        lines = [f"class {name}(TypedDict):"]
        if "description" in schema:
            lines += [_docstring(schema["description"]), ""]
        for field, about in schema["properties"].items():
            kind = _annotation(about)
            lines.append(f"    {field}: {kind if field in schema['required'] else f'NotRequired[{kind}]'}")
            if "description" in about:
                lines.append(_docstring(about["description"]))
        parts.append("\n".join(lines) + "\n")
    return "\n\n".join(parts)


def _docstring(words: str) -> str:
    return textwrap.fill(f'"""{_one_line(words)}"""', 120, initial_indent=" " * 4, subsequent_indent=" " * 4)


def _annotation(schema: dict[str, Any]) -> str:
    """The Python type of a JSON schema."""
    if "$ref" in schema:
        return f'"{schema["$ref"].rpartition("/")[2]}"'
    if "anyOf" in schema:
        found = [_annotation(one) for one in schema["anyOf"]]
        joined = " | ".join(one.strip('"') for one in found)
        return f'"{joined}"' if any(one.startswith('"') for one in found) else joined
    if "enum" in schema:
        return f"Literal[{', '.join(json.dumps(value) for value in schema['enum'])}]"
    match schema.get("type"):
        case "array":
            return f"list[{_annotation(schema['items'])}]"
        case "object":
            values = schema.get("additionalProperties")
            return f"dict[str, {_annotation(values) if isinstance(values, dict) else 'object'}]"
        case kind:
            return {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}[str(kind)]


EXAMPLE = """\
apiVersion: media.scaiwave.io/v1alpha1
kind: MediaTenant
metadata:
  name: acme
  namespace: acme-media
spec:
  quota: {maxStorageMb: 102400, maxUploadMb: 2048, maxTranscriptionMinutesPerDay: 600}
  storage: {deletionPolicy: Retain}
  api:
    autoscaling: {min: 2, max: 8, targetCpu: 70}
    resources: {requests: {cpu: 250m, memory: 256Mi}, limits: {memory: 2Gi}}
    host: media.acme.example
    cors: {origins: ["https://app.acme.example"]}
    signedUrlMaxSeconds: 3600
    uploadHours: 48
    page: true
  auth:
    oidc: {issuer: "https://login.acme.example", audience: media, page: {clientId: files}}
  scan: {pendingAccess: Uploader, unscannable: Block, maxParallel: 4, rescanSchedule: "30 2 * * *"}
  thumbnails: {resources: {limits: {cpu: 1, memory: 1Gi}}}
  transcription:
    model: medium
    device: cuda
    computeType: float16
    maxParallel: 2
    resources: {limits: {nvidia.com/gpu: 1}}
    nodeSelector: {example.com/pool: gpu}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    runtimeClass: nvidia
    modelCache: models
  webhooks:
    - {url: "https://app.acme.example/hooks/media", secretRef: {name: app-hook}}
  namespaceQuota: {cpu: 32, memory: 128Gi, pods: 60, jobs: 100}
"""


def media_tenant() -> str:
    version = crd.custom_resource_definition()["spec"]["versions"][0]
    fields = crd.schema()["properties"]
    lines = [
        "# MediaTenant",
        "",
        "Generated from the CRD (`crds/mediatenants.yaml`) by `make docs`; do not edit. "
        "`kubectl explain mt.spec` shows the same on a cluster.",
        "",
        crd.schema()["description"],
        "",
        "The smallest one has no spec at all. One that uses nearly everything:",
        "",
        "```yaml",
        *EXAMPLE.splitlines(),
        "```",
        "",
        "More about parts of it: [webhooks](webhooks.md), [speech](speech.md), "
        "[the page of files](install.md#the-page-of-files), [issuers of tokens](install.md#tokens-of-usual-issuers), "
        "[web apps of other origins](install.md#web-apps-of-other-origins).",
        "",
        "## spec",
        "",
        fields["spec"]["description"],
        "",
        *_fields({"properties": {n: f for n, f in fields["spec"]["properties"].items() if not _has_fields(f)}}),
    ]
    for name, field in fields["spec"]["properties"].items():
        if _has_fields(field):
            lines += ["", f"### spec.{name}", "", _one_line(field["description"]), "", *_fields(field)]
    lines += [
        "",
        "### Names never change",
        "",
        "Data is filed under the tenant id and the bucket's name, so both are immutable, and so are the defaults that "
        "stand for them. To rename a tenant, make a new one. A `metadata.name` that can't be a tenant id (over 40 "
        "characters, or with dots) needs `spec.tenantId`.",
        "",
        "## status",
        "",
        fields["status"]["description"],
        "",
        *_fields(fields["status"]),
        "",
        "What each condition and reason means, and what to do about it: [runbook.md](runbook.md).",
        "",
        "## kubectl",
        "",
        "`kubectl get mt` shows, and with `--output wide` the last four too:",
        "",
        "| column | what |",
        "|---|---|",
        *(f"| {column['name'].upper()} | {column['description']} |" for column in version["additionalPrinterColumns"]),
        "",
        "`kubectl scale mt NAME --replicas=3` sets `spec.api.replicas`. `kubectl get media` lists this kind too.",
    ]
    return "\n".join(lines) + "\n"


def _has_fields(schema: dict[str, Any]) -> bool:
    return "properties" in schema


def _fields(schema: dict[str, Any]) -> list[str]:
    rows = [
        f"| `{path}`{required} | {_kind(field)} | {_default_of(field)} | {_bounds(field)} | {_meaning(field)} |"
        for path, field, required in _walk("", schema)
    ]
    return ["| field | type | default | bounds | meaning |", "|---|---|---|---|---|", *rows]


def _walk(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}{name}"
        yield here, field, " (required)" if name in schema.get("required", []) else ""
        yield from _walk(f"{here}.", field)
        yield from _walk(f"{here}[].", field.get("items", {}))


def _kind(schema: dict[str, Any]) -> str:
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if "additionalProperties" in schema:
        return f"map of {_plural(_kind(schema['additionalProperties']))}"
    if schema["type"] == "array":
        return f"list of {_plural(_kind(schema['items']))}"
    return str(schema.get("format", schema["type"]))


def _plural(kind: str) -> str:
    return f"{kind[:-1]}ies" if kind.endswith("ty") else f"{kind}s"


def _default_of(schema: dict[str, Any]) -> str:
    return f"`{json.dumps(schema['default'])}`" if schema.get("default") not in (None, {}, "") else ""


def _bounds(schema: dict[str, Any]) -> str:
    if "x-kubernetes-int-or-string" in schema:
        return ""  # that it is a quantity says it
    said = [" | ".join(f"`{value}`" for value in schema.get("enum", []) if value)]
    least, most = schema.get("minimum"), schema.get("maximum")
    if most is not None:
        said.append(f"{least:,} to {most:,}")
    elif least is not None:
        said.append(f"at least {least:,}")
    if "maxLength" in schema:
        said.append(f"{schema['minLength']} to " if schema.get("minLength", 0) > 1 else "at most ")
        said[-1] += f"{schema['maxLength']} characters"
    entries = schema.get("maxItems", schema.get("maxProperties"))
    said.append(f"at most {entries} entries" if entries else "")
    rules = schema.get("x-kubernetes-validations", [])
    said += [rule["message"].removeprefix("must be ") for rule in rules if "fieldPath" not in rule]
    return _one_line("; ".join(part for part in said if part))


def _meaning(schema: dict[str, Any]) -> str:
    rules = [*schema.get("x-kubernetes-validations", []), *schema.get("items", {}).get("x-kubernetes-validations", [])]
    said = [f"`{rule['fieldPath'].removeprefix('.')}` {rule['message']}." for rule in rules if "fieldPath" in rule]
    return _one_line(" ".join([schema["description"], *said])).replace("<tenantId>", "`<tenantId>`")


class _Plain(yaml.CSafeDumper):
    """Without anchors: the same part may appear twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def definition() -> str:
    """The CRD's manifest."""
    body = yaml.dump(crd.custom_resource_definition(), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
    return f"# Generated from operator/media_operator/tenant/spec.py by `make docs`; do not edit.\n{body}"


def pages() -> dict[str, str]:
    """Path in the repository -> content."""
    document = create_app(None).openapi()
    manifest = definition()
    return {
        "docs/configuration.md": configuration(),
        "docs/http-api.md": http_api(document),
        "docs/openapi.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        "docs/mediatenant.md": media_tenant(),
        "cli/mediactl/models.py": models(document),
        "crds/mediatenants.yaml": manifest,
        "charts/media-platform/files/mediatenants.yaml": manifest,
    }


if __name__ == "__main__":
    for name, content in pages().items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(content, encoding="utf-8")
        sys.stdout.write(f"{name}\n")
