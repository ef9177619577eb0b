"""The CRD agrees with the model. tests/cluster/without_pods/test_crd.py tests whether an API server accepts it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import BaseModel

from media_operator.tenant import crd
from media_operator.tenant.patterns import FORMS
from media_operator.tenant.spec import MediaTenant, TenantSpec
from media_operator.tenant.status import TenantStatus

ROOT = Path(__file__).parents[3]
DEFINITION = crd.custom_resource_definition()
(VERSION,) = DEFINITION["spec"]["versions"]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
KUBERNETES_OWN = ("metadata", "metadata.name")


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from walk(field, f"{path}.{name}".removeprefix("."))
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from walk(schema[key], f"{path}[]")


NODES = dict(walk(SCHEMA))


def test_every_field_is_described() -> None:
    bare = [path for path, node in NODES.items() if "description" not in node and not path.endswith("[]")]
    assert set(bare) == set(KUBERNETES_OWN)
    assert not [path for path, node in NODES.items() if re.search(r"\s{2}|\n|`", node.get("description", ""))]


def test_the_meaning_of_every_value_of_an_enum_is_said() -> None:
    for path, node in NODES.items():
        for value in filter(None, node.get("enum", [])):
            assert re.search(rf"\b{value}\b", node["description"]), f"{path}: {value}"


def test_everything_has_one_type_and_a_bound() -> None:
    """The cost of a CEL rule is estimated from the largest value that a schema allows."""
    bound = {"integer": "minimum", "string": "maxLength", "array": "maxItems"}
    for path, node in NODES.items():
        if path in ("apiVersion", "kind"):
            continue
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node), path
        if "enum" not in node and node.get("format") != "date-time" and node.get("type") in bound:
            assert bound[node["type"]] in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        if node.get("type") == "array":
            assert "x-kubernetes-list-type" in node, path


def test_nothing_is_left_that_a_structural_schema_forbids() -> None:
    said = json.dumps(DEFINITION)
    for keyword in ("$ref", "$defs", "title", "null", "propertyNames", "patternProperties", '"pattern"', "const"):
        assert keyword not in said, keyword
    for path, node in NODES.items():
        assert not ("properties" in node and "additionalProperties" in node), path


OFF = ("spec.api.autoscaling", "spec.auth.oidc", "spec.auth.oidc.page")
"""Objects that have fields with defaults, and none themselves."""


def test_defaults_reach_every_field_that_has_one() -> None:
    """The API server fills in a default only if the object around it exists or has a default itself."""
    for path, node in NODES.items():
        if path.startswith("spec.") and "default" in node and "[]" not in path:
            around = path.rpartition(".")[0]
            assert "default" in NODES[around] or around in OFF, path


def test_what_is_off_by_default_stays_off() -> None:
    for path in (*OFF, "spec.namespaceQuota", "spec.tenantId"):
        assert "default" not in NODES[path]


def test_the_status_has_no_defaults() -> None:
    assert not [path for path, node in NODES.items() if path.startswith("status") and "default" in node]


def fields_of(model: type[BaseModel], path: str) -> Iterator[tuple[str, Any]]:
    for field in model.model_fields.values():
        here = f"{path}.{field.alias}"
        yield here, field
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in inner:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                repeated = "[]" if getattr(field.annotation, "__origin__", None) is list else ""
                yield from fields_of(kind, here + repeated)


@pytest.mark.parametrize(("model", "path"), [(TenantSpec, "spec"), (TenantStatus, "status")])
def test_bounds_are_those_of_the_model(model: type[BaseModel], path: str) -> None:
    keywords = {Ge: ("ge", ("minimum",)), Le: ("le", ("maximum",)), MinLen: ("min_length", ("minLength",))}
    keywords[MaxLen] = ("max_length", ("maxLength", "maxItems", "maxProperties"))
    compared = 0
    for here, field in fields_of(model, path):
        for rule in field.metadata:
            if type(rule) in keywords:
                attribute, names = keywords[type(rule)]
                assert getattr(rule, attribute) in [NODES[here].get(name) for name in names], here
                compared += 1
    assert compared > 10


def test_every_form_of_the_model_is_a_rule_that_says_it_in_words() -> None:
    rules = [rule for node in NODES.values() for rule in node.get("x-kubernetes-validations", [])]
    for pattern, words in FORMS.items():
        assert any(pattern in rule["rule"].replace("\\\\", "\\") and words in rule["message"] for rule in rules), words
    for rule in rules:
        assert re.match(r"(each key )?must |is immutable", rule["message"]), rule


def test_columns_point_at_fields_that_there_are() -> None:
    for column in VERSION["additionalPrinterColumns"]:
        path = re.sub(r"\[\?.*?\)\]", "[]", column["jsonPath"]).removeprefix(".")
        assert path in NODES or path == "metadata.creationTimestamp", column["name"]
    for path in VERSION["subresources"]["scale"].values():
        assert path.removeprefix(".") in NODES


def test_the_example_in_the_docs_is_valid_and_uses_nearly_everything() -> None:
    page = (ROOT / "docs" / "mediatenant.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert example
    document = yaml.safe_load(example[1])
    MediaTenant.read(document)
    assert set(TenantSpec.model_json_schema()["properties"]) - set(document["spec"]) == {"tenantId", "suspended"}
