"""What can go wrong on purpose: a request we refuse, a dependency that is away.

Core knows nothing of HTTP: the api maps `code` to a status (`media_api.problems`), workers store it as a job's error.
"""


class Refused(Exception):
    """A request this platform will not carry out.

    `code` is stable snake_case, made for programs; `detail` is a sentence for a person that says what was wrong, which
    limit holds and what to do; `facts` are the numbers a client needs to act (`limit`, `used`, `retry_after` ...).
    """

    def __init__(self, code: str, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.facts = facts


class Unavailable(Exception):
    """A dependency (object store, database, clamd) did not answer. Nothing was decided; trying again later is right."""

    def __init__(self, dependency: str, detail: str) -> None:
        super().__init__(f"{dependency}: {detail}")
        self.dependency = dependency
        self.detail = detail


class Unfinished(Unavailable):
    """A dependency was there, and broke off or said nothing of use on this very content: that counts as an attempt."""


def not_found() -> Refused:
    """The one answer for unknown ids, ids of another tenant and ids the caller may not see (http-api.md)."""
    return Refused("not_found", "There is nothing here under this id that you may see.")
