"""`make run`: serves the tenant of one manifest on this machine, by the same `plan` as the operator on a cluster.

    python -m media_operator.local samples/acme.yaml

Every trigger (start, an edit of the manifest, a child that started or ended, a timer) reconciles. The manifest is read
again at each edit; if it is refused, the tenant stays as it was. No process is left behind at the end: on a signal all
are stopped in order, and after kill -9 the kernel signals the children.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import watchfiles
from pydantic import ValidationError

from media_core import listening, logs, variables
from media_core.auth import tokens
from media_core.events.webhooks import host_of
from media_core.settings import complaints
from media_operator.jobs.dispatch import FleetDispatcher, listen
from media_operator.local.clamd import EmbeddedClamd
from media_operator.local.machine import BUILT_PAGE, Machine
from media_operator.local.manifest import CannotRun, read_manifest, short, version_of
from media_operator.local.postgres import EmbeddedPostgres, PostgresFailed
from media_operator.local.site import Site
from media_operator.local.target import LocalTarget
from media_operator.local.workers import sweep_regularly
from media_operator.plan.planner import with_transitions
from media_operator.reconcile import reconcile
from media_operator.settings import RunSettings
from media_operator.tenant.spec import MediaTenant, changes, refuse_immutable_changes
from media_operator.tenant.spec_errors import SpecInvalid
from media_operator.tenant.status import Condition

TOKEN_LIFETIME = timedelta(hours=12)
EDIT_SECONDS = 2
"""How often the manifest is looked at without a notice from the kernel."""
MOST_WORKERS = 250
"""So many that only the spec's own limits count: this machine has one tenant."""
SAMPLE = Path("samples/photo.jpg")
STRONGER = {
    "spec.transcription.model": "MEDIA_WHISPER_MODEL",
    "spec.transcription.device": "MEDIA_WHISPER_DEVICE",
    "spec.transcription.computeType": "MEDIA_WHISPER_COMPUTE_TYPE",
}
"""Field of the manifest -> variable in the environment of `make run` that wins over it, since it is about this
machine."""


# --- what is printed -------------------------------------------------------------------------------------------------


def table(conditions: Sequence[Condition]) -> str:
    rows = [("CONDITION", "STATUS", "REASON", "MESSAGE")]
    rows += [(condition.type, condition.status, condition.reason, condition.message) for condition in conditions]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    )


def news(before: Sequence[Condition], now: Sequence[Condition]) -> list[str]:
    """A line for each condition that changed. Numbers do not count: those of backlogs and times change at each pass."""
    known = {condition.type: _heard(condition) for condition in before}
    return [
        f"{condition.type} is {condition.status} ({condition.reason}): {condition.message}"
        for condition in now
        if known.get(condition.type) != _heard(condition)
    ]


def _heard(condition: Condition) -> tuple[str, str, str]:
    """What a person was told of it. Where all is well the message does not count."""
    message = "" if condition.status == "True" else re.sub(r"\d[\d.:]*", "", condition.message)
    return condition.status, condition.reason, message


def curl_lines(folder: Path) -> list[str]:
    """Commands to upload, list and download, to be pasted one after the other."""
    answer, copy = (shlex.quote(str(short(folder / name))) for name in ("upload.json", "photo.jpg"))
    bearer = '-H "Authorization: Bearer $TOKEN"'
    file = shlex.quote(f"file=@{short(SAMPLE.absolute())}")
    return [
        f'curl -sS "$BASE/v1/media/upload" {bearer} -F {file} -F room_id=lobby | tee {answer}; echo',
        f'curl -sS "$BASE/v1/rooms/lobby/files" {bearer}; echo',
        f"curl -sS \"$BASE/v1/media/download/$(grep -o 'med-[0-9A-Z]\\{{26\\}}' {answer})\" {bearer} -o {copy}"
        f" && ls -l {copy}",
    ]


def missing_model(model: str) -> str:
    """What is said of a speech model that is no folder of this machine. A name may have a slash, as hubs have them."""
    if model.startswith(("/", ".", "~")):
        return (
            f"There is no folder {model}, so no recording can be transcribed: set MEDIA_WHISPER_MODEL to the folder of "
            "a speech model, or start with: make run SPEECH=base"
        )
    return (
        f"The first transcription downloads the speech model {model}; "
        "where no model hub is reached, start with: make run SPEECH=base"
    )


def missing_secrets(tenant: MediaTenant, site: Site) -> list[str]:
    """A line for each webhook whose secret is not in the run folder."""
    files = {
        each.url: site.webhook_secrets(tenant) / each.secret_ref.name / each.secret_ref.key
        for each in tenant.spec.webhooks
    }
    return [
        f"The webhook to {host_of(url)} waits for its secret: write `whsec_` and the base64 of 24 to 64 random bytes "
        f"to {short(path)}, and make its folder first"
        for url, path in files.items()
        if not path.is_file()
    ]


def say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # serving goes on if our output was piped into `head`
        print(line, flush=True)


def warn(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S}  {line}", file=sys.stderr, flush=True)


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One tenant served until `stop` is set."""

    manifest: Path
    tenant: MediaTenant
    site: Site
    postgres: EmbeddedPostgres
    clamd: EmbeddedClamd
    resync_seconds: float
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    conditions: list[Condition] = field(default_factory=list)
    _is_explained: bool = False
    _is_refused: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _wake_dispatcher: Callable[[], None] = lambda: None

    async def serve(self) -> None:
        machine = Machine(self.site, self.postgres, self.clamd, self._wake, warn)
        self._stop_on_signals(machine)
        dispatcher = FleetDispatcher(machine, limit=MOST_WORKERS)
        self._wake_dispatcher = dispatcher.wake
        tasks = [asyncio.create_task(self._wait_for_stop())]
        try:
            tasks.append(asyncio.create_task(self._reconcile(machine)))
            await self._first_of(tasks)
            if not self.stop.is_set():
                self._introduce()
                tasks[1:] = [
                    asyncio.create_task(self._reconcile_when_woken(machine)),
                    asyncio.create_task(self._follow_manifest()),
                    asyncio.create_task(dispatcher.run()),
                    asyncio.create_task(listen(lambda: self.postgres.admin_url, dispatcher.wake)),
                    asyncio.create_task(sweep_regularly(machine.workers)),
                ]
                await self._first_of(tasks)
        finally:
            say("stopping; uploads in flight may finish, Ctrl-C again ends them")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await machine.stop()
            say("stopped")

    @staticmethod
    async def _first_of(tasks: Sequence[asyncio.Task[None]]) -> None:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def _wake(self) -> None:
        self._changed.set()
        self._wake_dispatcher()

    async def _wait_for_stop(self) -> None:
        await self.stop.wait()

    def _stop_on_signals(self, machine: Machine) -> None:
        def signalled() -> None:
            if self.stop.is_set():
                machine.kill()
                os._exit(130)
            self.stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, signalled)

    async def _reconcile(self, machine: Machine) -> None:
        """One pass. Prints each condition that changed."""
        current = await reconcile(LocalTarget(machine, self.tenant))
        before = self.conditions
        self.conditions = with_transitions(before, current.conditions, datetime.now(UTC))
        for line in news(before, self.conditions) if before else []:
            say(line)

    async def _reconcile_when_woken(self, machine: Machine) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self.resync_seconds)
            self._changed.clear()
            await self._reconcile(machine)
            if not self._is_explained and not self._is_mismatched():
                self._say_how_to_use_it()

    async def _follow_manifest(self) -> None:
        edits = watchfiles.awatch(
            self.manifest.parent,
            watch_filter=lambda _, path: Path(path).name == self.manifest.name,
            recursive=False,
            debounce=200,
            stop_event=self.stop,
            rust_timeout=EDIT_SECONDS * 1000,
            yield_on_timeout=True,
        )
        seen: tuple[int, int] | None = None
        async for _ in edits:  # also now and then, since no notice comes of an edit before the watch began
            before, seen = seen, version_of(self.manifest)
            if seen != before:
                self._take_edit()

    def _take_edit(self) -> None:
        try:
            edited = read_manifest(self.manifest)
            refuse_immutable_changes(self.tenant, edited)
        except CannotRun as error:
            say(f"{error}; the tenant stays as it was")
            self._is_refused = True
            return
        except SpecInvalid as error:
            for complaint in error.errors:
                say(f"{short(self.manifest)}: {complaint}; the tenant stays as it was")
            self._is_refused = True
            return
        edits = list(changes(self.tenant, edited))
        said, now = self.tenant.metadata.annotations, edited.metadata.annotations
        was_refused, self._is_refused = self._is_refused, False
        if not edits and said == now:
            if was_refused:
                say(f"{short(self.manifest)} is right again, and the tenant is as it says")
            return
        generation = self.tenant.metadata.generation + bool(edits)
        self.tenant = edited.model_copy(
            update={"metadata": edited.metadata.model_copy(update={"generation": generation})}
        )
        for path, before, after in edits:
            stronger = STRONGER.get(path)
            but = f" (no effect: {stronger} is set and wins here)" if stronger and stronger in os.environ else ""
            say(f"{path}: {json.dumps(before)} -> {json.dumps(after)}{but}")
        for name in sorted(said.keys() | now.keys()):
            if said.get(name) != now.get(name):
                say(f"metadata.annotations: {name}: {json.dumps(said.get(name))} -> {json.dumps(now.get(name))}")
        if any(path.startswith("spec.webhooks") for path, *_ in edits):
            self._say_missing_secrets()
        self._wake()

    def _introduce(self) -> None:
        say(f"tenant {self.tenant.tenant_id} of {short(self.manifest)}; its data is in {short(self.site.folder)}/")
        if not self.postgres.data.is_relative_to(self.site.folder):
            say(f"PostgreSQL's user cannot enter that folder, so its data is in {self.postgres.data}")
        say(table(self.conditions))
        if self._is_mismatched():
            data = self.postgres.data
            old = short(data.parent if data.is_relative_to(self.site.folder) else data)
            say(
                f"\nThe API is not served. If the database was moved away: stop this, `mv {old} {old}.new` (this start "
                f"made that folder), put the old folder back as {old}, and start again. To give the old database up: "
                f"put the annotation that DatabaseReady names under `metadata:` in {short(self.manifest)}. See "
                "docs/runbook.md, Schema and bucket."
            )
        else:
            self._say_how_to_use_it()

    def _is_mismatched(self) -> bool:
        return any(condition.reason == "DataMismatch" for condition in self.conditions)

    def _say_how_to_use_it(self) -> None:
        self._is_explained = True
        exports, oidc = {"BASE": self.site.base}, self.tenant.spec.auth.oidc
        if oidc is None and (keys := tokens.load_signing_keys(self.site.signing_keys(self.tenant))):
            exports["TOKEN"] = tokens.mint(
                keys[0],
                tenant_id=self.tenant.tenant_id,
                subject="demo",
                scopes=sorted(tokens.SCOPES),
                rooms=tokens.ALL,
                lifetime=TOKEN_LIFETIME,
            )
        lines = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
        _write_private(self.site.folder / "env", "".join(f"{line}\n" for line in lines))
        say("\n" + "\n".join(lines))
        if oidc is not None:
            say(f"# TOKEN: a token that {oidc.issuer} issues")
        say("\n" + "\n".join(curl_lines(self.site.folder)) + "\n")
        if self.tenant.spec.api.page:
            say(self._page_line(exports.get("TOKEN")))
        lifetime = f"The token is valid for {TOKEN_LIFETIME.total_seconds() / 3600:g} hours; "
        say(
            f"The whole API: {self.site.base}/docs. Logs: {short(self.site.folder)}/logs/. "
            f"{lifetime if 'TOKEN' in exports else ''}Ctrl-C stops everything."
        )
        model = os.environ.get("MEDIA_WHISPER_MODEL") or self.tenant.spec.transcription.model
        self._say_missing_secrets()
        if self.tenant.spec.transcription.enabled and not Path(model).expanduser().is_dir():
            say(missing_model(model))

    def _say_missing_secrets(self) -> None:
        for line in missing_secrets(self.tenant, self.site):
            say(line)

    def _page_line(self, token: str | None) -> str:
        """The token is in the fragment, which no browser sends to a server."""
        built = Path(os.environ.get("MEDIA_PAGE_FOLDER") or BUILT_PAGE)
        if not (built / "index.html").exists():
            return f"The page of files is missing: `make page` builds it, and says why if it can't ({short(built)})."
        return f"Files in the browser: {self.site.base}/" + (f"#token={token}" if token else "")


def _write_private(path: Path, content: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(content)


@contextlib.contextmanager
def _sole_user_of(folder: Path) -> Iterator[None]:
    """One `make run` per folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotRun(
                f"{short(folder)} is in use by another `make run`: set MEDIA_RUN_FOLDER to another folder"
            ) from None
        yield


def _refuse_taken_ports(settings: RunSettings) -> None:
    if settings.port == settings.metrics_port:
        raise CannotRun("MEDIA_PORT and MEDIA_METRICS_PORT are the same")
    for name, port in (("MEDIA_PORT", settings.port), ("MEDIA_METRICS_PORT", settings.metrics_port)):
        try:
            listening.listen(settings.host, port).close()
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or (error.errno or 0) < 0:  # no such name
                raise CannotRun(
                    f"{settings.host} is no address of this machine: set MEDIA_HOST to one, or to 0.0.0.0 or :: for all"
                ) from None
            raise CannotRun(f"port {port} cannot be used ({error.strerror}): set {name} to another") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="media_operator.local", description="Serves one MediaTenant on this machine.")
    parser.add_argument("manifest", type=Path, help="the tenant's manifest, YAML")
    manifest = parser.parse_args(arguments).manifest.absolute()
    try:
        settings = RunSettings()
        tenant = read_manifest(manifest)
        site = Site(settings.run_folder.absolute(), settings.host, settings.port, settings.metrics_port)
        with _sole_user_of(site.folder):
            _refuse_taken_ports(settings)
            logs.configure("text", "warning")
            variables.warn_of_unknown()
            say("starting PostgreSQL, clamd and the api")
            postgres = EmbeddedPostgres(site.folder / "postgres")
            try:
                postgres.start()
                clamd = EmbeddedClamd(mirror=settings.signatures_mirror or None)
                asyncio.run(Run(manifest, tenant, site, postgres, clamd, settings.resync_seconds).serve())
            finally:
                postgres.stop()
    except SpecInvalid as error:
        for complaint in error.errors:
            warn(f"{short(manifest)}: {complaint}")
        return 2
    except ValidationError as error:
        for line in complaints(error):
            warn(line)
        return 2
    except (CannotRun, PostgresFailed) as error:
        warn(str(error))
        return 1
    except KeyboardInterrupt:
        return 130  # before the signal handlers were installed
    return 0
