"""The README's tour, run as written: each command, with its output on a terminal."""

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.whole.test_make_run import MODEL, PATIENCE, ROOT, MakeRun, new_home

CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def tour() -> list[tuple[str, str]]:
    """Commands and outputs, in the README's order."""
    steps: list[tuple[str, str]] = []
    for block in CONSOLE.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            steps.append((command, output))
    return steps


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder that looks like a fresh clone, with its tenant being served."""
    folder = new_home()
    shutil.copytree(ROOT / "samples", folder / "samples")
    (folder / "tests").symlink_to(ROOT / "tests")
    run = MakeRun(folder / "samples", MEDIA_WHISPER_MODEL=str(MODEL))
    try:
        run.ready()
        yield folder
    finally:
        run.process.terminate()
        run.process.wait(PATIENCE)
        shutil.rmtree(folder)


def on_a_terminal(command: str, folder: Path) -> str:
    """Runs `command` in `folder` on a terminal. Returns its output without colours."""
    ours, theirs = pty.openpty()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "TERM": "dumb", "COLUMNS": "120", "NO_COLOR": "1", "LINES": "50"}
    process = subprocess.Popen(
        ["bash", "-c", f"source samples/run/env; {command}"],
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # how Linux tells the end of a pseudo-terminal
    os.close(ours)
    process.wait(PATIENCE)
    return shown.decode().replace("\r\n", "\n")


def squeezed(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines() if line.strip())


def test_the_tour_shows_what_the_readme_says(home: Path) -> None:
    steps = tour()
    assert len(steps) >= 8
    for command, expected in steps:
        shown = squeezed(on_a_terminal(command, home))
        pattern = ".*?".join(re.escape(piece.strip()) for piece in squeezed(expected).split("…"))
        assert re.fullmatch(pattern, shown, re.DOTALL), f"$ {command}\n{shown}\n--- the README says:\n{expected}"
