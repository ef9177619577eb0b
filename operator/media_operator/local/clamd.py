"""clamd for one folder: the machine's own binary with our configuration, started as a child and kept running.

Invariants:

- It listens on loopback only, writes only in its folder, and never outlives us.
- Content that it cannot scan in full is reported and not called OK (`configuration`, `SKIPPED`).
- If we are root, it runs as `clamav` or `nobody`. Its paths are relative to its working folder, so this also works in a
  checkout that only root can enter.

`start` has to run in a thread that lives at least as long as clamd: when that thread ends, the kernel kills clamd.
"""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from media_operator.local.processes import delay_after, die_with_parent, end, ending

HOST = "127.0.0.1"
HOW_TO_INSTALL = (
    "clamd is not installed, so no file gets a verdict. Debian, Ubuntu: apt-get install clamav-daemon; "
    "Fedora: dnf install clamd; macOS: brew install clamav"
)
SYSTEM_SIGNATURES = Path("/var/lib/clamav")
MIRROR = "database.clamav.net"
START_SECONDS = 180.0
"""The official signatures take half a minute to load on a slow machine."""
DOWNLOAD_SECONDS = 45.0
"""How long a first start waits for the official signatures. After that the download goes on."""
STOP_SECONDS = 5.0
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/opt/clamav/sbin", "/usr/local/opt/clamav/sbin")
CONNECTIONS = 800
"""Most connections at a time, with idle ones: each worker keeps some (`MEDIA_CLAMD_AT_ONCE`). clamd's default is 100.
Each costs one of 1024 descriptors."""
SKIPPED = (
    # Not if bit 3 of the flags is set: then the directory has the sizes.
    *(f"Heuristics.Skipped.Zip64:0:*:504b0304{{2}}?{nibble}{{11}}ffffffff" for nibble in range(8)),
    "Heuristics.Skipped.Zip64:0:*:504b0102{16}ffffffff",
    "Heuristics.Skipped.ZipMethod:0:*:504b0304{4}(01|02|03|04|05|07|0a|0e|12|13|14|5d|5e|5f|60|61|62)00",
)
"""Rules (.ndb) that report archive members that libclamav skips: ZIP members whose size is only in a ZIP64 field, and
those packed by LZMA, Zstandard, PPMd and other methods that it has no code for. Their names are those of heuristics, so
that a virus found beside them wins."""
SKIPPED_RAR = "Heuristics.Skipped.Rar:0:*:526172211a07"
"""The same for RAR, if libclamav has no unrar library, as in Debian."""
# In parts, so that a virus scanner takes neither this file nor its compiled form for the test virus.
_EICAR = "".join((r"X5O!P%@AP[4\PZX54(P^)", "7CC)7}$EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!$H+H*"))

_log = structlog.stdlib.get_logger("media.clamd")


class ClamdFailed(Exception):
    """clamd was not found or did not start; the text is one sentence for people."""


@dataclass(frozen=True)
class ClamdAddress:
    """Where clamd answers. `signatures`: "real" are the official ones; "local" know only the EICAR test file."""

    host: str
    port: int
    signatures: Literal["real", "local"]


@dataclass(frozen=True)
class ScanLimits:
    """Content beyond one of these limits is reported as `Heuristics.Limits.Exceeded...`, never as OK."""

    content_mib: int = 2000
    """Most MiB of one content, with all that is unpacked from it. libclamav's own limit is 2 GiB."""
    files: int = 10_000
    """Most files in one archive, with those of archives inside it."""
    recursion: int = 17
    """Deepest nesting of archives."""
    seconds: float = 120
    threads: int = 4
    """Scans at a time; more have to wait."""


def configuration(port: int, limits: ScanLimits) -> str:
    """clamd.conf for 1.4 and newer. Its working folder has `signatures`, and `temporary` for unpacked files.

    Three settings ensure that nothing passes unscanned:

    - AlertExceedsMax: by default clamd says OK of content that it skips.
    - MaxScanSize is not above MaxFileSize: clamd silently cuts a ZIP member at MaxFileSize. That piece then exceeds the
      rest of MaxScanSize, which is reported.
    - DisableCache: clamd 1.4 remembers clean files by MD5. Of two files with the same MD5 the second would be called
      clean without a scan. Content is scanned once, so a cache would gain nothing.
    """
    size = f"{limits.content_mib}M"
    settings = {
        "Foreground": "yes",
        "LogTime": "yes",
        "TCPAddr": HOST,
        "TCPSocket": port,
        "DatabaseDirectory": "signatures",
        "TemporaryDirectory": "temporary",
        "MaxThreads": limits.threads,
        "MaxQueue": CONNECTIONS,
        "StreamMaxLength": size,
        "MaxFileSize": size,
        "MaxScanSize": size,
        "MaxFiles": limits.files,
        "MaxRecursion": limits.recursion,
        "MaxScanTime": int(limits.seconds * 1000),
        "AlertExceedsMax": "yes",
        "AlertEncrypted": "yes",
        "AlertEncryptedArchive": "yes",
        "AlertEncryptedDoc": "yes",
        "DisableCache": "yes",
        "IdleTimeout": 2,  # a reload waits for idle threads to end: by default 30 s without scans
        "ExitOnOOM": "yes",
        "ConcurrentDatabaseReload": "no",  # two official databases in memory take over 2 GB
    }
    return _lines(settings)


class EmbeddedClamd:
    """One clamd, started again when it dies. `rules`: more signatures, as lines of a .ndb file.

    The official signatures come from `official`, a folder that the machine keeps up to date, else by freshclam from
    `mirror`. None: not from there.
    """

    def __init__(
        self,
        *,
        limits: ScanLimits = ScanLimits(),
        rules: Iterable[str] = (),
        official: Path | None = SYSTEM_SIGNATURES,
        mirror: str | None = MIRROR,
    ) -> None:
        self._limits = limits
        self._rules = tuple(rules)
        self._official = official
        self._mirror = mirror
        self._folder = Path()
        self._port = 0
        self._process: Process | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    def find() -> Path | None:
        """Path of the machine's clamd, in PATH or in the folders of packages; None: there is none."""
        return _executable("clamd")

    @property
    def address(self) -> ClamdAddress:
        return ClamdAddress(HOST, self._port, "real" if _complete(self._folder / "signatures") else "local")

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, run_folder: Path) -> ClamdAddress:
        """Returns when clamd answers PING. Raises ClamdFailed. clamd writes only in `run_folder/clamd`."""
        if self.find() is None:
            raise ClamdFailed(HOW_TO_INSTALL)
        await asyncio.to_thread(self._prepare, run_folder / "clamd")
        try:
            await self._write_rules()
            await self._fetch_signatures()
            await self._start_on_a_free_port()
        except BaseException:
            await self.stop()
            raise
        self._tasks.append(asyncio.create_task(self._supervise()))
        return self.address

    async def stop(self) -> None:
        """Ends clamd and a running download. May be repeated."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._process is not None:
            await end(self._process, STOP_SECONDS)
            self._process = None
            shutil.rmtree(self._folder / "temporary", ignore_errors=True)

    # --- signatures ---------------------------------------------------------------------------------------------

    def _prepare(self, folder: Path) -> None:
        self._folder = folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # whatever our umask: clamd's user has to enter it
        shutil.rmtree(folder / "temporary", ignore_errors=True)  # a killed clamd leaves unpacked files
        signatures = folder / "signatures"
        for part in (folder / "temporary", signatures):
            part.mkdir(mode=0o700, exist_ok=True)
            self._give(part)
        if self._official and _complete(self._official):
            for source in self._official.glob("*.c[vl]d"):
                copy = signatures / source.name
                if not copy.exists() or copy.stat().st_mtime < source.stat().st_mtime:
                    self._give(Path(shutil.copy2(source, copy)))

    async def _write_rules(self) -> None:
        rules = [f"Eicar-Test-Signature:0:*:{_EICAR.encode().hex()}", *SKIPPED, *self._rules]
        if "RAR" not in await self._features():
            rules.append(SKIPPED_RAR)
        self._write(self._folder / "signatures" / "local.ndb", "".join(f"{rule}\n" for rule in rules))

    async def _features(self) -> list[str]:
        """libclamav's optional features, as clamconf lists them; empty without clamconf."""
        if (clamconf := _executable("clamconf")) is None:
            return []
        asked = await asyncio.create_subprocess_exec(clamconf, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
        told, _ = await asked.communicate()
        return [word for line in told.decode().splitlines() if line.startswith("Optional") for word in line.split()]

    async def _fetch_signatures(self) -> None:
        """Waits some time for a first download. An update is downloaded while clamd runs."""
        if self._mirror is None or (self._official and _complete(self._official)) or not _executable("freshclam"):
            return
        patience = 0 if _complete(self._folder / "signatures") else DOWNLOAD_SECONDS
        self._tasks.append(asyncio.create_task(self._freshclam(self._mirror)))
        await asyncio.wait(self._tasks, timeout=patience)

    async def _freshclam(self, mirror: str) -> None:
        settings = {
            "DatabaseDirectory": "./",
            "DatabaseMirror": mirror,
            "ConnectTimeout": 10,
            "ReceiveTimeout": 60,
            "MaxAttempts": 1,
            "TestDatabases": "no",  # a test takes as much memory as clamd itself; the files are signed
        }
        self._write(self._folder / "freshclam.conf", _lines(settings))
        # freshclam changes into its folder before it resolves other paths, so we start it there.
        command = [str(_executable("freshclam")), "--config-file=../freshclam.conf", "--stdout"]
        process = await self._spawn(command, self._folder / "signatures", "freshclam.log")
        try:
            updated = await process.wait() == 0
        finally:
            await end(process, STOP_SECONDS)
        if updated and self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGUSR2)  # clamd reads them now; else within ten minutes

    # --- the daemon ---------------------------------------------------------------------------------------------

    async def _start_on_a_free_port(self) -> None:
        for attempts_left in range(4, -1, -1):
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                self._port = probe.getsockname()[1]
            try:
                await self._launch()
            except ClamdFailed as error:
                if attempts_left and "Cannot bind" in str(error):  # another process took the port before clamd did
                    continue
                raise
            return

    async def _launch(self) -> None:
        self._write(self._folder / "clamd.conf", configuration(self._port, self._limits))
        command = [str(self.find()), "--config-file=clamd.conf"]
        process = self._process = await self._spawn(command, self._folder, "clamd.log")
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await _answers(self._port):
                    if process.returncode is not None:
                        raise ClamdFailed(f"clamd did not start: {self._last_words()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise ClamdFailed(f"clamd did not answer within {START_SECONDS:.0f} s: {self._last_words()}") from None

    async def _supervise(self) -> None:
        failures = 0
        while self._process is not None:
            status = await self._process.wait()
            _log.warning("clamd_ended", how=ending(status), detail=self._last_words())
            await asyncio.sleep(delay_after(failures) if failures else 0)
            try:
                await self._launch()
                failures = 0
            except (ClamdFailed, OSError) as error:
                _log.error("clamd_down", detail=str(error))
                failures += 1

    async def _spawn(self, command: list[str], cwd: Path, log: str) -> Process:
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        with (self._folder / log).open("wb") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                cwd=cwd,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"} | proxies,
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C in the terminal reaches only us
                preexec_fn=die_with_parent(signal.SIGKILL),
                **_account(),
            )

    def _last_words(self) -> str:
        lines = (self._folder / "clamd.log").read_text(errors="replace").splitlines()
        return ([line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["its log is empty"])[0].strip()

    @staticmethod
    def _give(path: Path) -> None:
        """Makes `path` belong to the user that clamd runs as."""
        if account := _account():
            os.chown(path, account["user"], account["group"])

    @staticmethod
    def _write(path: Path, content: str) -> None:
        path.write_text(content)
        path.chmod(0o644)


def _complete(signatures: Path) -> bool:
    return all(any(signatures.glob(f"{part}.c[vl]d")) for part in ("main", "daily"))


def _executable(name: str) -> Path | None:
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_FOLDERS)))
    return Path(found) if found else None


def _account() -> dict[str, Any]:
    """Arguments to spawn it as another user than root, since it parses hostile bytes.

    clamd's own setting `User` would undo the kernel's death signal.
    """
    if os.geteuid() != 0:
        return {}
    for name in ("clamav", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return {}


def _lines(settings: dict[str, Any]) -> str:
    return "".join(f"{name} {value}\n" for name, value in settings.items())


async def _answers(port: int) -> bool:
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(HOST, port)
            with contextlib.closing(writer):
                writer.write(b"nPING\n")
                return await reader.readline() == b"PONG\n"
    except OSError:  # TimeoutError is one
        return False
