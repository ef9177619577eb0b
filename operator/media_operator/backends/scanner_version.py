"""How old clamd's virus signatures are. The operator asks clamd every few minutes (`zVERSION`).

clamd's Service may have several replicas, each with signatures of its own, and any of them may answer. A replica with
old signatures is seen only now and then. So the alert looks at the highest age of a while.

clamd tells when its daily database was built in its own time zone, which is UTC in a container.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from datetime import UTC, datetime

import structlog

ASK_SECONDS = 300.0
ASK_AGAIN_SECONDS = 60.0
"""After no answer: a lost answer must not look like a clamd that is down."""
ANSWER_SECONDS = 10.0
"""VERSION waits for no scan. It waits only while signatures are being loaded."""
LONGEST_ANSWER = 1024

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# strptime would use the names of months of the process's locale.
_BUILT = re.compile(
    rf"ClamAV [^/]+/\d+/[A-Z][a-z]{{2}} ({'|'.join(_MONTHS)}) +(\d{{1,2}}) (\d\d):(\d\d):(\d\d) (\d{{4}})", re.ASCII
)

_log = structlog.stdlib.get_logger("media.scanner")


def built_at(version: str) -> datetime | None:
    """When the signatures were built. `version`: such as `ClamAV 1.4.6/27444/Mon Nov 23 10:00:00 2026`.

    None: clamd has no daily database (`ClamAV 1.4.6`), or the text has another form.
    """
    found = _BUILT.fullmatch(version.strip())
    if found is None:
        return None
    month, day, hour, minute, second, year = found.groups()
    with contextlib.suppress(ValueError):  # the 31st of February
        return datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    return None


async def ask(host: str, port: int) -> str:
    """clamd's answer to VERSION. Raises OSError (TimeoutError is one) or ValueError, with the reason."""
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection(host, port, limit=LONGEST_ANSWER)
        with contextlib.closing(writer):
            writer.write(b"zVERSION\0")
            try:
                answer = await reader.readuntil(b"\0")
            except asyncio.IncompleteReadError as error:
                raise ConnectionError(f"it closed the connection after {error.partial[:200]!r}") from None
            except asyncio.LimitOverrunError:
                raise ValueError("its answer has no end") from None
    version = answer[:-1].decode("ascii", "replace")
    if not version.startswith("ClamAV "):
        raise ValueError(f"it answered {version[:200]!r}")
    return version


class ScannerVersion:
    """The last answer of the clamd at this address."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._built: datetime | None = None
        self.up: bool | None = None
        """Whether it answered the last time; None: it was not asked yet."""

    def age(self) -> float | None:
        """Seconds since the signatures were built; None: not known."""
        if self._built is None:
            return None
        return max(0.0, (datetime.now(UTC) - self._built).total_seconds())

    async def run(self) -> None:
        """Runs until cancelled. Raises nothing if clamd is down: that is a fact for the metrics."""
        while True:
            await self.look()
            await asyncio.sleep(ASK_SECONDS if self.up else ASK_AGAIN_SECONDS)

    async def look(self) -> None:
        was = self.up
        try:
            version = await ask(self._host, self._port)
        except (OSError, ValueError) as error:  # ValueError also for an invalid host name
            self.up, self._built = False, None
            if was is not False:
                _log.warning("clamd_away", reason=str(error) or f"no answer within {ANSWER_SECONDS:g} s")
            return
        self.up, self._built = True, built_at(version)
        if not was:
            _log.info("clamd_answers", version=version)
