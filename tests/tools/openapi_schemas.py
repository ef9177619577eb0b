"""The JSON schemas of a Kubernetes minor, as `kubeconform -strict` reads them, from Kubernetes' own published OpenAPI.

Each folder in openapi/ pins a release of the Go module k8s.io/kubernetes, which has `api/openapi-spec/swagger.json` in
it; go.sum holds its checksum, so no server of schemas is asked or trusted. Like a tool (build.py), a folder of schemas
lies in the cache under a name that says what it was made from, and gets that name only when it is whole.

What the schemas hold is what kubernetes-json-schema's openapi2jsonschema would make, but for one thing: it lets any
optional field be null. A schema knows all fields, also those that a server ignores until a feature gate is set, and no
rule that spans fields. Standard library only.

To move to another release: `go get k8s.io/kubernetes@VERSION` and `go mod download k8s.io/kubernetes` in its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.tools import build
from tests.tools.build import BuildFailed, Tool

Schema = dict[str, Any]

MINORS = tuple(sorted(path.name for path in (build.HERE / "openapi").iterdir()))
"""From the oldest to the newest."""
LOCATION = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
"""A schema's file name, as kubeconform's -schema-location has it. `file_name` says the same."""

_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def schemas(minor: str) -> Path:
    """The folder with one file for each kind of that minor. Raises BuildFailed."""
    pin = _pin(minor)
    digest = hashlib.sha256()
    for source in (*_files(pin), Path(__file__)):
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    made = build.cache() / f"{pin.name}-{pin.version}-{digest.hexdigest()[:12]}"
    if not made.exists():
        with build._one_builder():
            if not made.exists():  # the builder that held the lock may have made it
                _make(pin, made)
    return made


def _pin(minor: str) -> Tool:
    return Tool("openapi", folder=f"openapi/{minor}", module=build.KUBERNETES, package="")


def _files(pin: Tool) -> tuple[Path, Path]:
    return build.HERE / pin.folder / "go.mod", build.HERE / pin.folder / "go.sum"


def _make(pin: Tool, made: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".build-", dir=build.cache()) as scratch:
        swagger = json.loads(_swagger(pin, Path(scratch)).read_bytes())
        unfinished = Path(scratch) / "schemas"
        unfinished.mkdir()
        for name, schema in of_swagger(swagger).items():
            (unfinished / name).write_text(json.dumps(schema), encoding="utf-8")
        unfinished.rename(made)


def _swagger(pin: Tool, scratch: Path) -> Path:
    """Of the pinned release. Go's module cache lies in the scratch folder too: a hundred megabytes, needed once."""
    for file in _files(pin):  # Go may write to them
        shutil.copy(file, scratch)
    go = build._go(pin.needed_go)
    ran = subprocess.run(
        [go, "mod", "download", "-json", "-modcacherw", pin.module],
        cwd=scratch,
        env={**os.environ, "GOMODCACHE": str(scratch / "mod"), "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(ran.stdout or "{}")
    if ran.returncode != 0:
        error = told.get("Error") or ran.stderr
        raise BuildFailed(f"go could not download {pin.module} {pin.version}:\n{error.strip()[-2000:]}")
    # Go compares with a checksum in go.sum, and looks up one that is missing there.
    _, sums = _files(pin)
    if f"{pin.module} {pin.version} {told['Sum']}" not in sums.read_text(encoding="utf-8").splitlines():
        raise BuildFailed(f"{pin.folder}/go.sum pins no checksum of {pin.module} {pin.version}")
    return Path(told["Dir"]) / "api" / "openapi-spec" / "swagger.json"


# --- from OpenAPI to JSON schema --------------------------------------------------------------------------------------


def file_name(group: str, version: str, kind: str) -> str:
    return "-".join(part.lower() for part in (kind, group.partition(".")[0], version) if part) + ".json"


def of_swagger(swagger: Mapping[str, Any]) -> dict[str, Schema]:
    """By file name, a schema of each kind. Each holds all that it refers to."""
    definitions = {name: strict(definition) for name, definition in swagger["definitions"].items()}
    # A server writes a quantity as text; everybody writes `cpu: 1`, and it is taken.
    definitions[_QUANTITY] = {"type": ["string", "number"]}
    made = {}
    for name, definition in swagger["definitions"].items():
        kinds = definition.get("x-kubernetes-group-version-kind", [])
        if len(kinds) == 1:  # else it is no object's, as DeleteOptions
            needed = {each: definitions[each] for each in _reached(name, definitions)}
            made[file_name(**kinds[0])] = {"$ref": f"#/definitions/{name}", "definitions": needed}
    return made


def of_crd(crd: Mapping[str, Any]) -> dict[str, Schema]:
    """By file name, a schema of each version that a CustomResourceDefinition declares. Its CEL rules are left out."""
    made = {}
    for version in crd["spec"]["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        if metadata := schema["properties"].get("metadata"):
            metadata["additionalProperties"] = True  # a CRD limits fields that all objects have
        made[file_name(crd["spec"]["group"], version["name"], crd["spec"]["names"]["kind"])] = schema
    return made


def strict(schema: Mapping[str, Any]) -> Schema:
    """The same as JSON schema, with every field refused that it does not declare."""
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    made = {key: value for key, value in schema.items() if key != "description" and not key.startswith("x-")}
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        made.pop("format", None)
        made["type"] = ["integer", "string"]
    if made.pop("nullable", False) and "type" in made:
        made["type"] = ["null", *([made["type"]] if isinstance(made["type"], str) else made["type"])]
    if "properties" in schema:
        made["properties"] = {name: strict(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = strict(schema[key])
    return made


def _reached(name: str, definitions: Mapping[str, Schema]) -> set[str]:
    """The names of all that a definition refers to, and its own."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        if (each := waiting.pop()) not in reached:
            reached.add(each)
            waiting += _references(definitions[each])
    return reached


def _references(schema: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(reference := schema.get("$ref"), str):
        yield reference.rpartition("/")[2]
    for inner in (*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from _references(inner)
