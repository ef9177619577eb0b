"""The media platform's client: a library (`Client`, `AsyncClient`), and the command line program that uses it, which is
`program` with its `commands`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mediactl.client import AsyncClient, Client
    from mediactl.download import Downloaded
    from mediactl.errors import Corrupt, Failed, MediaError, Misuse, Problem, Unreachable
    from mediactl.sending import Source

__all__ = [
    "AsyncClient",
    "Client",
    "Corrupt",
    "Downloaded",
    "Failed",
    "MediaError",
    "Misuse",
    "Problem",
    "Source",
    "Unreachable",
]
_MODULES = ("errors", "models", "sending", "download", "client")


def __getattr__(name: str) -> object:
    # Imported when they are used, so that the program can take Ctrl-C before it imports the rest.
    if name in _MODULES:
        return importlib.import_module(f"mediactl.{name}")
    if name in __all__:
        for module in _MODULES:
            found = getattr(importlib.import_module(f"mediactl.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module 'mediactl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
