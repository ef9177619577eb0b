"""Writes the generated pages of docs/: `make docs`. A test compares them with what stands there, so they stay true.

configuration.md   from the settings classes: each attribute, its environment variable, default and docstring
http-api.md        from the API's OpenAPI document
openapi.json       that document itself
"""

import ast
import importlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from media_api.app import create_app

HERE = Path(__file__).parent
SETTINGS = (
    ("Every process of a tenant", "media_core.settings"),
    ("Object store", "media_core.store"),
    ("Object store: S3", "media_core.store.s3"),
    ("The api", "media_api.settings"),
    ("Workers", "media_workers.settings"),
    ("`make run`", "media_operator.settings"),
)
METHODS = ("get", "head", "post", "put", "patch", "delete")


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


def settings_of(module_name: str) -> Iterator[type[BaseSettings]]:
    module = importlib.import_module(module_name)
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, BaseSettings)
            and value.__module__ == module_name
            and value.model_fields
        ):
            yield value


def configuration() -> str:
    lines = [
        "# Configuration",
        "",
        "Every setting is an environment variable. Generated from the settings classes by `make docs`; do not edit.",
    ]
    for title, module_name in SETTINGS:
        lines += ["", f"## {title}"]
        for cls in settings_of(module_name):
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
    return f"`{value}`" if str(value) not in ("", "None") else "none"


def http_api(document: dict[str, Any]) -> str:
    lines = [
        "# HTTP API",
        "",
        "Generated from the API's OpenAPI document (`docs/openapi.json`) by `make docs`; do not edit. "
        "A running tenant shows the same at `/docs`.",
    ]
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                lines += _operation(document, path, method, operations[method])
    lines += ["", "## Schemas"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines) + "\n"


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> list[str]:
    lines = ["", f"## {method.upper()} {path}", "", f"**{operation.get('summary', '')}**"]
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
        lines += ["", f"Body: `{media_type}`", "", "| field | type | meaning |", "|---|---|---|"]
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


def pages() -> dict[str, str]:
    """File name below docs/ -> content."""
    document = create_app(None).openapi()
    return {
        "configuration.md": configuration(),
        "http-api.md": http_api(document),
        "openapi.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for name, content in pages().items():
        (HERE / name).write_text(content, encoding="utf-8")
        sys.stdout.write(f"docs/{name}\n")
