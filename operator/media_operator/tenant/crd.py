"""The CustomResourceDefinition of MediaTenant, made from the model in `spec`, so that both validate the same.

A structural schema allows less than JSON Schema, and people need better messages than the API server's. So:

- References are written out. `null` is left out (the API server takes it for absent), and so are empty defaults.
- A pattern becomes a CEL rule: the message of a failed pattern is the pattern, that of a rule its sentence
  (`patterns.FORMS`).
- An object with defaults inside gets the default `{}`. Otherwise they would not be filled in if it is left out.
- The status gets no defaults: it has only what was observed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from media_operator.tenant.patterns import FORMS, NAME
from media_operator.tenant.spec import GROUP, KIND, VERSION, MediaTenant
from media_operator.tenant.structural import Rule, Structural

PLURAL = "mediatenants"
SINGULAR = "mediatenant"
SHORT_NAME = "mt"

Schema = dict[str, Any]

ORDER = (
    *("description", "type", "format", "enum", "default", "minimum", "maximum", "minLength", "maxLength"),
    *("maxItems", "maxProperties", "x-kubernetes-int-or-string", "anyOf", "x-kubernetes-list-type"),
    *("x-kubernetes-list-map-keys", "required", "properties", "additionalProperties", "items"),
    "x-kubernetes-validations",
)
"""Keywords that the structural schema may have, in the order in which they are written."""

_TENANT_ID = "(has({0}.spec.tenantId) ? {0}.spec.tenantId : {0}.metadata.name)"
"""In CEL, of the object `{0}`."""

WEBHOOKS = '.status.conditions[?(@.type=="WebhooksDelivered")]'
READY = '.status.conditions[?(@.type=="Ready")]'
COLUMNS = (
    ("Ready", "string", f"{READY}.status", "Whether the tenant works as declared", 0),
    ("Reason", "string", f"{READY}.reason", "Why", 0),
    ("Used", "string", ".status.usage.used", "Stored content", 0),
    ("Quota", "string", ".status.usage.quota", "What may be stored", 0),
    ("Endpoint", "string", ".status.endpoint", "Base URL of the api", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Since the resource was made", 0),
    ("Message", "string", f"{READY}.message", "Why, in words", 1),
    ("Bucket", "string", ".status.bucket", "Name of the bucket", 1),
    ("Webhooks", "string", f"{WEBHOOKS}.reason", "Whether webhooks take their events", 1),
    ("Suspended", "boolean", ".spec.suspended", "Whether requests are answered 503 and no worker starts", 1),
)
"""Name, type, path, description, priority (1: only with `--output wide`)."""


def custom_resource_definition() -> dict[str, Any]:
    """What `kubectl apply` installs: schema, rules, subresources and columns of MediaTenant."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["media"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.api.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [_column(*column) for column in COLUMNS],
                    "schema": {"openAPIV3Schema": _with_defaults_said(schema())},
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, description: str, priority: int) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | ({"priority": priority} if priority else {})


# --- the schema ------------------------------------------------------------------------------------------------------


class _WithRules(GenerateJsonSchema):
    """pydantic's JSON schema, plus each class's rules about several of its fields."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        cls = schema["cls"]
        if issubclass(cls, Structural) and cls.rules:
            made["x-kubernetes-validations"] = [_of_rule(rule) for rule in cls.rules]
        return made


def schema() -> Schema:
    """The structural OpenAPI v3 schema of a MediaTenant."""
    document = MediaTenant.model_json_schema(schema_generator=_WithRules)
    root = _structural(document, document["$defs"])
    fields = root["properties"]
    fields["status"] = _without_defaults(fields["status"])
    fields["apiVersion"] = {"description": fields["apiVersion"]["description"], "type": "string"}
    fields["kind"] = {"description": fields["kind"]["description"], "type": "string"}
    # All the rest of it, its description too, is Kubernetes' own.
    fields["metadata"] = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}}
    root["required"] = ["apiVersion", "kind", "metadata"]
    root["x-kubernetes-validations"] = _of_the_whole(fields["spec"]["properties"]["tenantId"])
    return _ordered(root)


def _structural(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    node = {key: value for key, value in node.items() if key not in ("title", "$defs")}
    options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
    if len(options) == 1:
        node = options[0] | {key: value for key, value in node.items() if key != "anyOf"}
        return _structural(node, definitions)
    if "$ref" in node:
        name = node.pop("$ref").rpartition("/")[2]
        return _structural(definitions[name] | node, definitions)

    made = {key: value for key, value in node.items() if key in ORDER}
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    if "const" in node:
        made["enum"] = [node["const"]]
    if made.get("additionalProperties") is False:
        del made["additionalProperties"]  # unknown fields are pruned, or refused by strict clients; never kept
    if "properties" in node:
        made["properties"] = {name: _structural(each, definitions) for name, each in node["properties"].items()}
        if made.pop("default", None) is not None and any("default" in each for each in made["properties"].values()):
            made["default"] = {}
    rules = _of_pattern(node)
    if "patternProperties" in node:
        ((pattern, values),) = node["patternProperties"].items()
        made["additionalProperties"] = _structural(values, definitions)
        rules += _of_keys(pattern, node["propertyNames"]["maxLength"])
    if "items" in node:
        made["items"] = _structural(node["items"], definitions)
        made["items"].pop("default", None)
        made.setdefault("x-kubernetes-list-type", "atomic")
    if made.get("default") in (None, [], {}) and "properties" not in made:
        made.pop("default", None)
    if rules:
        made["x-kubernetes-validations"] = rules
    return made


def _without_defaults(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_defaults(value) for key, value in node.items() if key != "default"}
    return node


def _with_defaults_said(node: Any) -> Any:
    """`kubectl explain` shows a description and no default."""
    if not isinstance(node, dict):
        return node
    made = {key: _with_defaults_said(value) for key, value in node.items()}
    if made.get("default") not in (None, "", {}) and isinstance(made.get("description"), str):
        default = made["default"] if isinstance(made["default"], str) else json.dumps(made["default"])
        made["description"] += f" Default: {default}."
    return made


def _ordered(node: Schema) -> Schema:
    made = {key: node[key] for key in ORDER if key in node}
    assert len(made) == len(node), node.keys() - made.keys()  # noqa: S101  a keyword that nobody placed
    if "properties" in made:
        made["properties"] = {name: _ordered(each) for name, each in made["properties"].items()}
    for key in ("additionalProperties", "items"):
        if key in made:
            made[key] = _ordered(made[key])
    return made


# --- CEL -------------------------------------------------------------------------------------------------------------


def _of_pattern(node: Mapping[str, Any]) -> list[dict[str, str]]:
    if "pattern" not in node:
        return []
    pattern = node["pattern"]
    rule = f"self.matches({_text(pattern)})"
    if "x-kubernetes-int-or-string" in node:
        rule = f"type(self) == int ? self >= 0 : ({rule} && self.size() <= {node['maxLength']})"
    return [{"rule": rule, "message": FORMS[pattern]}]


def _of_keys(pattern: str, longest: int) -> list[dict[str, str]]:
    """Of a map; a structural schema can't say anything about its keys."""
    return [
        {"rule": f"self.all(key, key.matches({_text(pattern)}))", "message": f"each key {FORMS[pattern]}"},
        {
            "rule": f"self.all(key, key.size() <= {longest})",
            "message": f"each key must be at most {longest} characters long",
        },
    ]


def _of_rule(rule: Rule) -> dict[str, str]:
    return {"rule": rule.cel, "message": rule.sentence, "fieldPath": f".{rule.field}"}


def _of_the_whole(tenant_id: Schema) -> list[dict[str, str]]:
    """What concerns metadata too, and what may never change. `spec.refuse_immutable_changes` is the same here."""
    longest = tenant_id["maxLength"]
    bucket = f"(has({{0}}.spec.storage.bucket) ? {{0}}.spec.storage.bucket : 'media-' + {_TENANT_ID})"
    return [
        {
            "rule": f"has(self.spec.tenantId) || self.metadata.name.matches({_text(NAME)})",
            "message": f"{FORMS[NAME]}, unless spec.tenantId is set",
            "fieldPath": ".metadata.name",
        },
        {
            "rule": f"has(self.spec.tenantId) || self.metadata.name.size() <= {longest}",
            "message": f"must be at most {longest} characters long, unless spec.tenantId is set",
            "fieldPath": ".metadata.name",
        },
        _immutable(_TENANT_ID, ".spec.tenantId"),
        _immutable(bucket, ".spec.storage.bucket"),
    ]


def _immutable(value: str, path: str) -> dict[str, str]:
    new, old = value.format("self"), value.format("oldSelf")
    return {
        "rule": f"{new} == {old}",
        "messageExpression": f'"is immutable: it is \'" + {old} + "\' and cannot become \'" + {new} + "\'"',
        "message": "is immutable",
        "fieldPath": path,
        "reason": "FieldValueForbidden",
    }


def _text(value: str) -> str:
    """A CEL string: raw where that is readable."""
    return json.dumps(value) if "'" in value or "\\" not in value else f"r'{value}'"
