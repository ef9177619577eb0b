"""The media platform's client: a library (`Client`, `AsyncClient`) and the command line program that uses it."""

from mediactl.client import AsyncClient, Client
from mediactl.errors import Corrupt, Failed, MediaError, Misuse, Problem, Unreachable
from mediactl.transfer import Downloaded, Source

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
