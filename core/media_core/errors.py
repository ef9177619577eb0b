"""The errors that callers handle: a request that is refused, a dependency that is away.

This package knows nothing of HTTP: the api maps `code` to a status (`media_api.answers.problems`), and workers store it
as a job's error.
"""


class Refused(Exception):
    """A request that this platform refuses.

    `code` is a stable name in snake_case, for programs. `detail` is a sentence for a person: what was wrong, which
    limit applies, what to do. `facts` are the numbers that a client needs to act (`limit`, `used`, `retry_after` ...).
    """

    def __init__(self, code: str, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.facts = facts


class Unavailable(Exception):
    """A dependency (object store, database, clamd) did not answer. Nothing was decided; the caller may try again."""

    def __init__(self, dependency: str, detail: str) -> None:
        super().__init__(f"{dependency}: {detail}")
        self.dependency = dependency
        self.detail = detail


class NotNow(Unavailable):
    """A dependency answers, but cannot do this now. `detail` says why, in words for a client."""

    @classmethod
    def disk_full(cls, dependency: str) -> "NotNow":
        """Until somebody makes room nothing is written. What is there can be read."""
        return cls(dependency, f"the disk of the {dependency} is full; whoever runs it has to make room")


class Unfinished(Unavailable):
    """A dependency was reached, but broke off or gave no usable answer for this content. It counts as an attempt."""


class Lost(Unfinished):
    """The object store has lost the object of a content that has items. `contents.life` has noted it."""

    code = "file_lost"

    def __init__(self) -> None:
        super().__init__(
            "object store",
            "The object store has lost the bytes of this file: their object is missing. Whoever has the file may "
            "upload it again; then all its uploads can be read again.",
        )


def not_found() -> Refused:
    """The answer for unknown ids, ids of another tenant and ids that the caller may not see (http-api.md)."""
    return Refused("not_found", "There is nothing here under this id that you may see.")
