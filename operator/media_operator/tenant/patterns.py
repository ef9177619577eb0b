"""The forms of texts in a MediaTenant, with words for each of them."""

from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from media_core.origins import PATTERN as ORIGIN

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
HOST = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)*[a-z]([-a-z0-9]*[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"

_LABEL_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_LABEL_KEY = rf"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_LABEL_NAME}"
LABEL_KEY = f"^{_LABEL_KEY}$"
TAINT_KEY = f"^({_LABEL_KEY})?$"
LABEL_VALUE = f"^({_LABEL_NAME})?$"
SCOPE = r"^[!#-\[\]-~]+$"
RESOURCE = rf"^(cpu|memory|ephemeral-storage|[a-z0-9]([-a-z0-9.]*[a-z0-9])?/{_LABEL_NAME})$"


def _cron() -> str:
    """Five fields, each a list of `*`, a value or a range, with or without a step: as a CronJob accepts it."""
    values = (
        "[0-5]?[0-9]",
        "([01]?[0-9]|2[0-3])",
        "(0?[1-9]|[12][0-9]|3[01])",
        "(0?[1-9]|1[0-2]|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))",
        "([0-6]|(?i:sun|mon|tue|wed|thu|fri|sat))",
    )
    items = [rf"(\*|{value}(-{value})?)(/[1-9][0-9]*)?" for value in values]
    return "^" + " +".join(f"{item}(,{item})*" for item in items) + "$"


CRON = _cron()


def _issuer_url() -> str:
    """URLs that every parser accepts: their port and address are always valid."""
    label, group = "[a-z0-9]([-a-z0-9]*[a-z0-9])?", "[0-9a-fA-F]{1,4}"
    colon = [rf"({group}:){{{n}}}((:{group}){{1,{7 - n}}}|:)" for n in range(1, 7)]  # n groups left of the ::
    address = "|".join([f":((:{group}){{1,7}}|:)", *colon, f"({group}:){{7}}({group}|:)"])
    near = rf"localhost|127\.0\.0\.1|({label}\.)+svc(\.cluster\.local)?"
    port = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
    path = "/[-A-Za-z0-9._~:/@!$&()*+,;=%]*"
    return rf"^(https://([A-Za-z0-9.-]+|\[({address})\])|http://({near}))(:({port}))?({path})?$"


ISSUER_URL = _issuer_url()
WEBHOOK_URL = ISSUER_URL.replace("!$&()*", "!&*").removesuffix("$") + r"(\?[-A-Za-z0-9._~:/?@!&*+,;=%]*)?$"
"""Without `$(`: Kubernetes would put variables in there, as this becomes a value of the environment."""
KEY_OF_A_SECRET = "^[-_A-Za-z0-9][-._A-Za-z0-9]*$"  # noqa: S105  a pattern

FORMS = {
    NAME: "must be lower-case letters, digits and inner hyphens",
    HOST: "must be a lower-case host name such as media.acme.example (a name, no address, no port)",
    ISSUER_URL: "must be an https URL without query, with a port of 1 to 65535 if any "
    "(http only for this machine and for services of the cluster, .svc or .svc.cluster.local)",
    WEBHOOK_URL: "must be an https URL, with a port of 1 to 65535 if any, without user and fragment "
    "(http only for this machine and for services of the cluster, .svc or .svc.cluster.local)",
    KEY_OF_A_SECRET: "must be a key of a Secret: letters, digits, hyphens, underscores and inner dots",
    CRON: 'must be a cron schedule of five fields such as "0 3 * * *" '
    "(minute 0-59, hour 0-23, day 1-31, month 1-12, weekday 0-6)",
    ORIGIN: "must be an origin: scheme, host and port, such as https://app.example or https://*.preview.example",
    QUANTITY: "must be a Kubernetes quantity such as 500m or 2Gi",
    LABEL_KEY: "must be the key of a node label such as disk or example.com/pool",
    TAINT_KEY: "must be the key of a taint such as gpu or nvidia.com/gpu",
    SCOPE: "must be a scope of OAuth: visible ASCII without spaces, quotes and backslashes",
    RESOURCE: "must be one of cpu, memory, ephemeral-storage or an extended resource such as nvidia.com/gpu",
    LABEL_VALUE: "must be letters, digits and inner hyphens, dots or underscores",
}
"""Pattern -> its meaning in words, for error messages. A pattern means the same in the regular expressions of pydantic
(Rust) and of the API server (RE2)."""

QUANTITY_SCHEMA = {
    "x-kubernetes-int-or-string": True,
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": QUANTITY,
    "maxLength": 32,
}
Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) and not isinstance(value, bool) else value),
    StringConstraints(pattern=QUANTITY, max_length=32),
    WithJsonSchema(QUANTITY_SCHEMA),
]
_UNITS = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("", "k", "M", "G", "T"))},
}
_UNITS |= {unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)}


def amount(quantity: str) -> Decimal:
    """Of a text that matches `QUANTITY`."""
    number = quantity.rstrip("mkKMGTi")
    return Decimal(number) * _UNITS[quantity.removeprefix(number)]


IssuerUrl = Annotated[str, StringConstraints(pattern=ISSUER_URL, max_length=512)]
Origin = Annotated[str, StringConstraints(pattern=ORIGIN, max_length=255)]
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY, max_length=317)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE, max_length=63)]

ResourceName = Annotated[str, StringConstraints(pattern=RESOURCE, max_length=128)]
ResourceList = Annotated[dict[ResourceName, Quantity], Field(max_length=16)]
