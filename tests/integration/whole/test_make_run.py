"""`make run` as its user sees it: a process, its output, its files, and what is left when it ends."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest
import yaml

from media_operator.local.manifest import CannotRun, read_manifest
from media_operator.local.run import main
from media_operator.local.site import Site
from media_operator.local.workers import LocalWorkers
from media_operator.plan.desired import WorkerShape
from tests.ports import free_port

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "samples" / "acme.yaml"
MODEL = ROOT / "tests" / "fixtures" / "whisper-tiny-words" / "model"
PATIENCE = 120.0
# In two parts, so that a virus scanner does not take this file for the test virus.
EICAR = r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STAND" + "ARD-ANTIVIRUS-TEST-FILE!$H+H*"


class MakeRun:
    """One run in `home`, a folder of its own with manifest and data."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.folder = home / "run"
        self.manifest = home / "acme.yaml"
        self.lines: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self._said = threading.Condition()
        settings = {
            "MEDIA_RUN_FOLDER": str(self.folder),
            "MEDIA_PORT": str(free_port()),
            "MEDIA_METRICS_PORT": str(free_port()),
            "MEDIA_SIGNATURES_MIRROR": "",
            "MEDIA_RESYNC_SECONDS": "1",
            "MEDIA_WHISPER_MODEL": str(MODEL),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "media_operator.local", str(self.manifest)],
            cwd=ROOT,
            env=os.environ | settings | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def said(self, pattern: str, *, after: int = 0) -> str:
        """Waits for the first output line from number `after` on that matches, and returns it."""

        def match() -> str | None:
            return next((line for line in self.lines[after:] if re.search(pattern, line)), None)

        with self._said:
            self._said.wait_for(lambda: match() is not None or not self._reader.is_alive(), PATIENCE)
            found = match()
        assert found is not None, f"never said {pattern!r}:\n{self.output}"
        return found

    def ready(self) -> Self:
        self.said(r"^curl .*/v1/media/download/")
        return self

    def edit(self, **spec: Any) -> int:
        """Changes the manifest as an editor does (a new file renamed over it). Returns the position in the output."""
        document = yaml.safe_load(self.manifest.read_text())
        for name, value in spec.items():
            document["spec"][name] = {**document["spec"][name], **value} if isinstance(value, dict) else value
        return self._write(document)

    def annotate(self, name: str, value: str) -> int:
        document = yaml.safe_load(self.manifest.read_text())
        document["metadata"].setdefault("annotations", {})[name] = value
        return self._write(document)

    def _write(self, document: Any) -> int:
        here = len(self.lines)
        fresh = self.manifest.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(document))
        fresh.replace(self.manifest)
        return here

    def exports(self) -> dict[str, str]:
        words = shlex.split((self.folder / "env").read_text())
        return dict(word.split("=", 1) for word in words if "=" in word)

    def client(self) -> httpx.Client:
        exports = self.exports()
        return httpx.Client(
            base_url=exports["BASE"], headers={"Authorization": f"Bearer {exports['TOKEN']}"}, timeout=PATIENCE
        )

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def api(self) -> psutil.Process:
        return next(child for child in self.family() if "media_api" in command_of(child))

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return code


Starter = Callable[..., MakeRun]


def new_home() -> Path:
    """A folder for a run. Not tmp_path: as root PostgreSQL runs as another user, who must be able to reach it."""
    home = Path(tempfile.mkdtemp(prefix="media-test-run-"))
    home.chmod(0o755)
    return home


def command_of(process: psutil.Process) -> list[str]:
    """Empty if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def gone(process: psutil.Process) -> bool:
    """Whether the process has ended. It may stay a zombie if nothing reaps it (a container without init)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def until(fact: Callable[[], Any]) -> Any:
    """Repeats the check until it holds; another process gives no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not (seen := fact()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)
    return seen


@pytest.fixture(scope="module")
def make_run() -> Iterator[Starter]:
    """Starts runs in new homes, or in the given one, and ends those that a test leaves running."""
    runs: list[MakeRun] = []

    def start(home: Path | None = None, manifest: str | None = None, **environment: str) -> MakeRun:
        if home is None:
            home = new_home()
            (home / "acme.yaml").write_text(manifest or SAMPLE.read_text())
        runs.append(MakeRun(home, **environment))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
    for home in {run.home for run in runs}:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def served(make_run: Starter) -> MakeRun:
    run: MakeRun = make_run()
    return run.ready()


def upload(run: MakeRun, content: bytes, name: str = "note.txt") -> httpx.Response:
    with run.client() as client:
        return client.post("/v1/media/upload", files={"file": (name, content)})


# --- a run that is up ------------------------------------------------------------------------------------------------


def test_every_condition_is_shown_and_true(served: MakeRun) -> None:
    shown = {line.split()[0] for line in served.lines if re.match(r"^\w*(Ready|Applied) ", line)}
    assert shown >= {"Ready", "BucketReady", "DatabaseReady", "KeysReady", "PolicyApplied", "ScannerReady", "ApiReady"}
    until(lambda: all(served_condition(served, name) == "True" for name in shown))


def served_condition(run: MakeRun, name: str) -> str:
    """The tenant's condition that was printed last, in the table or in a later line."""
    said = [line for line in run.lines if re.match(rf"^{name}( is)? +(True|False|Unknown)", line)]
    found = re.search(r"True|False|Unknown", said[-1]) if said else None
    return found[0] if found else ""


def test_the_exports_it_prints_are_kept_for_scripts_and_for_nobody_else(served: MakeRun) -> None:
    kept = served.folder / "env"
    assert kept.stat().st_mode & 0o777 == 0o600
    for line in kept.read_text().splitlines():
        assert line in served.lines
    assert {"BASE", "TOKEN"} <= served.exports().keys()


def test_the_three_curl_lines_work_when_pasted(served: MakeRun) -> None:
    lines = [line for line in served.lines if line.startswith("curl ")]
    assert len(lines) == 3
    pasted = "\n".join(["set -e", f". {shlex.quote(str(served.folder / 'env'))}", *lines])
    done = subprocess.run(
        ["bash", "-c", pasted], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    uploaded, listed = (json.loads(line)["data"] for line in done.stdout.splitlines()[:2])
    assert uploaded["mime_type"] == "image/jpeg"
    assert uploaded["media_id"] in [item["media_id"] for item in listed]
    assert (served.folder / "photo.jpg").read_bytes() == (ROOT / "samples" / "photo.jpg").read_bytes()


def test_private_keys_and_passwords_are_readable_by_the_owner_only(served: MakeRun) -> None:
    assert (served.folder / "acme").stat().st_mode & 0o777 == 0o700
    for name in ("signing-keys.json", "secrets.json"):
        assert (served.folder / "acme" / name).stat().st_mode & 0o777 == 0o600
    secrets_ = json.loads((served.folder / "acme" / "secrets.json").read_text()).values()
    logs = "".join(log.read_text(errors="replace") for log in (served.folder / "logs").glob("*.log"))
    assert [secret for secret in secrets_ if secret in served.output + logs] == []


def test_statements_are_prepared_as_nothing_stands_before_its_database(served: MakeRun) -> None:
    assert served.api().environ()["MEDIA_DATABASE_PREPARE"] == "true"


def test_an_upload_wakes_a_worker_that_gives_its_verdict(served: MakeRun) -> None:
    media = upload(served, b"harmless").json()["data"]
    assert media["scan_status"] == "pending"
    with served.client() as client:
        until(lambda: client.get(f"/v1/media/{media['media_id']}/info").json()["data"]["scan_status"] == "clean")


def test_the_test_virus_is_gone_once_it_was_scanned(served: MakeRun) -> None:
    media = upload(served, EICAR.encode(), "eicar.com").json()["data"]
    with served.client() as client:
        until(lambda: client.get(f"/v1/media/{media['media_id']}/info").status_code == 404)


def test_a_recording_becomes_a_transcript(served: MakeRun) -> None:
    sample = MODEL.parent / "samples" / "greeting_en.wav"
    with served.client() as client, sample.open("rb") as audio:
        answer = client.post("/v1/transcribe", files={"file": audio}, data={"language": "en"})
        assert answer.status_code == 202, answer.text
        job = answer.json()["data"]["job_id"]
        until(lambda: client.get(f"/v1/jobs/{job}").json()["data"]["status"] in ("completed", "failed"))
        result = client.get(f"/v1/jobs/{job}").json()["data"]
    assert result["status"] == "completed", result
    assert result["transcript"].strip()


def test_a_new_quota_takes_effect_while_it_runs(served: MakeRun) -> None:
    api = served.api().pid
    here = served.edit(quota={"maxUploadMb": 1})
    served.said(r"^spec\.quota\.maxUploadMb: 512 -> 1$", after=here)
    until(lambda: upload(served, os.urandom(1024 * 1024 + 1)).status_code == 413)
    here = served.edit(quota={"maxUploadMb": 512})
    served.said(r"^spec\.quota\.maxUploadMb: 1 -> 512$", after=here)
    until(lambda: upload(served, os.urandom(1024 * 1024 + 1)).status_code == 201)
    assert served.api().pid == api


def test_a_suspended_tenant_answers_503_until_it_is_resumed(served: MakeRun) -> None:
    here = served.edit(suspended=True)
    served.said(r"^spec\.suspended: false -> true$", after=here)
    served.said(r"^Ready is False \(Suspended\)", after=here)
    with served.client() as client:
        until(lambda: client.get("/v1/usage").status_code == 503)
        here = served.edit(suspended=False)
        served.said(r"^Ready is True", after=here)
        until(lambda: client.get("/v1/usage").status_code == 200)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        ({"quota": {"maxStorageMb": 0}}, r"acme.yaml: spec.quota.maxStorageMb: must be at least 1, not 0; .* stays as"),
        ({"scan": {"pendingAcces": "All"}}, r"acme.yaml: spec.scan.pendingAcces: .*did you mean pendingAccess\?; "),
        ({"tenantId": "other"}, r"acme.yaml: spec.tenantId: is immutable: .*; the tenant stays as it was"),
    ],
)
def test_a_bad_edit_is_refused_with_the_fields_name_and_changes_nothing(
    served: MakeRun, edit: dict[str, Any], complaint: str
) -> None:
    good = served.manifest.read_text()
    with served.client() as client:
        before = client.get("/v1/usage").json()
        here = served.edit(**edit)
        served.said(complaint, after=here)
        assert client.get("/v1/usage").json() == before
    served.manifest.write_text(good)


def test_a_manifest_that_is_no_yaml_any_more_is_refused_with_its_line(served: MakeRun) -> None:
    good, here = served.manifest.read_text(), len(served.lines)
    served.manifest.write_text(good + "\n  : [\n")
    served.said(r"acme.yaml: is not YAML in line \d+: .*; the tenant stays as it was", after=here)
    here = len(served.lines)
    served.manifest.write_text(good)
    served.said(r"acme.yaml is right again, and the tenant is as it says$", after=here)


def test_a_second_run_in_the_same_folder_is_refused_in_one_line(served: MakeRun, make_run: Starter) -> None:
    second = make_run(served.home)
    assert second.process.wait(PATIENCE) == 1
    second._reader.join()
    (line,) = second.lines
    assert line.endswith("is in use by another `make run`: set MEDIA_RUN_FOLDER to another folder")


def test_an_api_that_dies_is_started_again_and_the_condition_says_so(served: MakeRun) -> None:
    here, api = len(served.lines), served.api()
    api.kill()
    served.said(r"^ApiReady is False", after=here)
    served.said(r"api was killed by SIGKILL.*starting again in", after=here)
    served.said(r"^ApiReady is True", after=here)
    assert served.api().pid != api.pid


def test_a_second_ctrl_c_does_not_wait_for_uploads_in_flight(served: MakeRun) -> None:
    """The last test with this run, as it ends it."""
    family, base = served.family(), httpx.URL(served.exports()["BASE"])
    head = (
        f"POST /v1/media/upload HTTP/1.1\r\nHost: {base.host}\r\nAuthorization: Bearer {served.exports()['TOKEN']}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection((base.host, base.port or 80)) as client:
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        served.process.send_signal(signal.SIGINT)
        served.said(r"^stopping; uploads in flight may finish, Ctrl-C again ends them")
        assert served.end(signal.SIGINT) == 130
    until(lambda: all(gone(process) for process in family))


# --- how it ends, and what the next one finds ------------------------------------------------------------------------


def test_its_end_leaves_no_process_behind_and_the_next_run_finds_the_data(make_run: Starter) -> None:
    run = make_run().ready()
    media = upload(run, b"to be found again").json()["data"]["media_id"]
    bearer = {"Authorization": f"Bearer {run.exports()['TOKEN']}"}
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        family = run.family()
        programs = {Path(command[0]).name for process in family if (command := command_of(process))}
        assert {"postgres", "clamd"} <= programs
        code = run.end(how)
        if how != signal.SIGKILL:
            assert code == 0, run.output
            assert [process for process in family if not gone(process)] == []
        until(lambda family=family: all(gone(process) for process in family))
        if how != signal.SIGINT:
            run = make_run(run.home).ready()
            with run.client() as client:
                again = client.get(f"/v1/media/download/{media}", headers=bearer)
                assert again.content == b"to be found again"


# --- a database that is not there any more ---------------------------------------------------------------------------

ACCEPT_DATA, REMOVE_ORPHANS = "media.scaiwave.io/accept-data", "media.scaiwave.io/remove-orphans"


def objects_of(run: MakeRun) -> dict[str, bytes]:
    """The tenant's objects, by hash."""
    folder = run.folder / "buckets" / "media-acme" / "tenant" / "acme"
    return {path.name: path.read_bytes() for path in folder.iterdir() if re.fullmatch("[0-9a-f]{64}", path.name)}


def birth_of(run: MakeRun) -> dict[str, Any]:
    mark = run.folder / "buckets" / "media-acme" / "tenant" / "acme" / ".birth"
    found: dict[str, Any] = json.loads(mark.read_bytes())
    return found


def sweep(run: MakeRun) -> None:
    """Sweeps, as `make run` does every quarter of an hour, with the environment of its processes."""
    environment = run.api().environ()
    subprocess.run([sys.executable, "-m", "media_workers", "sweep"], env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def ended(make_run: Starter) -> MakeRun:
    """A run with five files, which has ended."""
    run = make_run().ready()
    until(lambda: served_condition(run, "ApiReady") == "True")
    for number in range(5):
        run.sent.append(upload(run, os.urandom(50_000), f"{number}.bin").json()["data"])
    sweep(run)
    assert objects_of(run).keys() == {each["sha256"] for each in run.sent}
    assert run.end() == 0
    return run


def test_files_whose_database_is_gone_are_kept_until_it_is_back(make_run: Starter, ended: MakeRun) -> None:
    run, kept, born = ended, objects_of(ended), birth_of(ended)
    postgres, away = run.folder / "postgres", run.folder / "postgres.away"
    postgres.rename(away)
    hours_ago = time.time() - 30 * 24 * 3600
    for name in kept:
        os.utime(run.folder / "buckets" / "media-acme" / "tenant" / "acme" / name, (hours_ago, hours_ago))

    lost = make_run(run.home)
    said = lost.said(
        r"^DatabaseReady +False +DataMismatch +schema tenant_acme is new, but bucket media-acme belongs to another"
    )
    assert f'write into the manifest: metadata: {{annotations: {{{ACCEPT_DATA}: "{born["birth_id"]}"}}}}' in said
    for waiting in ("PolicyApplied", "ApiReady", "WorkersReady"):
        lost.said(rf"^{waiting} +False +WaitingForDatabase")
    assert [child for child in lost.family() if "media_api" in command_of(child)] == []
    assert lost.end() == 0
    assert (objects_of(lost), birth_of(lost)) == (kept, born)

    shutil.rmtree(postgres)
    away.rename(postgres)
    back = make_run(run.home).ready()
    until(lambda: served_condition(back, "ApiReady") == "True")
    with back.client() as client:
        for each in run.sent:
            assert client.get(f"/v1/media/{each['media_id']}/info").status_code == 200
    assert back.end() == 0


def test_who_gives_up_a_lost_database_goes_on_with_a_new_one_and_loses_no_object_unasked(
    make_run: Starter, ended: MakeRun
) -> None:
    kept, given_up = objects_of(ended), birth_of(ended)["birth_id"]
    shutil.rmtree(ended.folder / "postgres")

    run = make_run(ended.home, MEDIA_RETENTION_ORPHANS_FEW="2")
    run.said(r"^DatabaseReady +False +DataMismatch")
    run.said(r"^The API is not served")
    assert "curl" not in run.output
    here = run.annotate(ACCEPT_DATA, given_up)
    run.said(rf'^metadata.annotations: {ACCEPT_DATA}: null -> "{given_up}"$', after=here)
    run.said(r"^DatabaseReady is True \(SchemaCurrent\)", after=here)
    run.said(r"^ApiReady is True", after=here)
    run.ready()  # and says now how it is used
    assert birth_of(run)["birth_id"] != given_up
    until(lambda: upload(run, b"life goes on").status_code == 201)

    sweep(run)
    assert kept.items() <= objects_of(run).items()
    said = run.said(r"^DataConsistent is False \(OrphansKept\): 5 of 6 objects \(0\.2 MiB\) have no row", after=here)
    released = re.search(rf'{REMOVE_ORPHANS}: "([^"]+)"', said)
    assert released
    here = run.annotate(REMOVE_ORPHANS, released[1])
    run.said(r"^metadata.annotations: .* -> ", after=here)
    until(lambda: sweep(run) or len(objects_of(run)) == 1)
    run.said(r"^DataConsistent is True \(Consistent\)", after=here)
    assert run.end() == 0


# --- a run that cannot start -----------------------------------------------------------------------------------------


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that it prints for a manifest and settings with which it cannot run."""

    def refused(code: int, manifest: str | None = None, **settings: str) -> str:
        path = tmp_path / "acme.yaml"
        path.write_text(manifest or SAMPLE.read_text())
        for name, value in {"MEDIA_RUN_FOLDER": str(tmp_path / "run"), **settings}.items():
            monkeypatch.setenv(name, value)
        assert main([str(path)]) == code
        out, err = capfd.readouterr()
        (line,) = (out + err).splitlines()
        assert not (tmp_path / "run" / "postgres").exists()
        return line

    return refused


@pytest.mark.parametrize("setting", ["MEDIA_PORT", "MEDIA_METRICS_PORT"])
def test_a_port_in_use_is_said_in_one_line(refusal: Callable[..., str], setting: str) -> None:
    ports = {"MEDIA_PORT": str(free_port()), "MEDIA_METRICS_PORT": str(free_port())}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal(1, **ports | {setting: port})
    assert line.endswith(f"port {port} cannot be used (Address already in use): set {setting} to another")


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "nowhere.invalid"])
def test_a_host_that_is_no_address_of_this_machine_is_named(refusal: Callable[..., str], host: str) -> None:
    line = refusal(1, MEDIA_HOST=host, MEDIA_PORT=str(free_port()), MEDIA_METRICS_PORT=str(free_port()))
    assert line.endswith(f"{host} is no address of this machine: set MEDIA_HOST to one, or to 0.0.0.0 or :: for all")


def test_a_bad_manifest_starts_nothing_and_names_the_field(refusal: Callable[..., str]) -> None:
    line = refusal(2, SAMPLE.read_text().replace("maxStorageMb: 10240", "maxStorageMb: lots"))
    assert line.endswith("acme.yaml: spec.quota.maxStorageMb: must be a whole number, not 'lots'")


def test_a_bad_setting_is_named_by_its_variable(refusal: Callable[..., str]) -> None:
    assert refusal(2, MEDIA_PORT="http").endswith("MEDIA_PORT: it must be a whole number")


def test_an_api_that_keeps_failing_is_visible_with_its_reason(make_run: Starter) -> None:
    run = make_run(MEDIA_DECODING_PROCESSES="0", MEDIA_DECODING_PROCESES="3")
    run.said(r"unknown_variable .*did you mean MEDIA_DECODING_PROCESSES\?")
    run.said(r"^ApiReady +False +CrashLoop +api exited with \d+: .*PROCESSES: it must be greater than or equal to 1")
    run.said(r"api exited with \d+, 2 times: .*starting again in 1 s")
    assert run.end() == 0


async def test_a_worker_that_fails_is_not_started_again_at_once(tmp_path: Path) -> None:
    ended, said = asyncio.Event(), list[str]()
    site = Site(tmp_path, "127.0.0.1", 1, 2)
    workers = LocalWorkers(site, lambda kind, shape: {"PATH": os.defpath}, ended.set, said.append)
    assert not await workers.launch("scan")  # nothing is known yet of how many there may be
    await workers.reshape(WorkerShape({"scan": 2}, model="small", device="cpu", compute_type="int8"))
    assert await workers.launch("scan")
    assert workers.running() == ["scan"]
    await asyncio.wait_for(ended.wait(), PATIENCE)  # it has no settings
    assert workers.trouble["scan"].startswith("a scan worker exited with 2: MEDIA_")
    assert "the next one starts in 0.5 s at the earliest" in said[0]
    assert not await workers.launch("scan")


async def test_workers_of_a_tenant_that_is_suspended_are_ended_without_a_word(tmp_path: Path) -> None:
    said = list[str]()
    site = Site(tmp_path, "127.0.0.1", 1, 2)
    workers = LocalWorkers(site, lambda kind, shape: os.environ, lambda: None, said.append)
    shape = WorkerShape({"scan": 1}, model="small", device="cpu", compute_type="int8")
    await workers.reshape(shape)
    assert await workers.launch("scan")
    await workers.reshape(replace(shape, parallel={"scan": 0}))
    assert workers.running() == []
    assert (said, workers.trouble) == ([], {})


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_the_sample_is_a_valid_tenant() -> None:
    assert read_manifest(SAMPLE).tenant_id == "acme"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds 0 documents"),
        (f"{SAMPLE.read_text()}\n---\n{SAMPLE.read_text()}", "holds 2 documents"),
        ("a: [", "is not YAML in line 1"),
        ("kind: MediaTenant\nkind: MediaTenant\n", "is not YAML in line 2: the key kind comes twice"),
        (
            SAMPLE.read_text().replace("name: acme", "name: postgres"),
            "id cannot be postgres: set another spec.tenantId",
        ),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_in_words(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "tenant.yaml"
    path.write_text(text)
    with pytest.raises(CannotRun, match=re.escape(complaint)):
        read_manifest(path)


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=r"nowhere\.yaml: No such file"):
        read_manifest(tmp_path / "nowhere.yaml")
