"""The TypeScript client of docs/clients.md: its types are made of the OpenAPI document, compiled strictly, and used."""

import asyncio
import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from page.build import BuildFailed, node, packages

from tests.integration.servers.api import Api
from tests.integration.tenancy import GENEROUS

ROOT = Path(__file__).parents[3]
TYPESCRIPT = ROOT / "tests" / "tools" / "typescript"
OPENAPI = ROOT / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app that uses the types, compiled: anew only if something has changed that it is made of."""
    folder = tmp_path_factory.mktemp("typescript") / "app"
    shutil.copytree(TYPESCRIPT, folder, ignore=shutil.ignore_patterns("node_modules"))
    try:
        modules = packages(TYPESCRIPT)
    except BuildFailed as error:
        pytest.skip(f"the tools cannot be had here: {error}")
    (folder / "node_modules").symlink_to(modules)
    app, digest = folder / "app.js", hashlib.sha256()
    for source in (Path(__file__), OPENAPI, *sorted(folder.glob("*.*"))):
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    compiled = modules / f".app-{digest.hexdigest()}.js"
    if not compiled.exists():
        _compile(folder)
        for old in modules.glob(".app-*.js"):
            old.unlink()
        shutil.copy(app, compiled.with_suffix(".new"))
        compiled.with_suffix(".new").rename(compiled)
    shutil.copy(compiled, app)
    return app


def _compile(folder: Path) -> None:
    for command in (
        [node(), "generate.mjs", OPENAPI, "api.d.ts"],
        [node(), "node_modules/typescript/bin/tsc", "--project", "."],
    ):
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr


async def test_an_app_in_typescript_uploads_lists_and_downloads(fresh_api: Api, app: Path) -> None:
    await fresh_api.apply(replace(GENEROUS, scan_enabled=False))
    ran = await asyncio.to_thread(
        subprocess.run, [node(), app, fresh_api.base, fresh_api.token()], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["mediaId"].startswith("med-")
    assert (told["names"], told["text"]) == (["Grüße.txt"], "hello from TypeScript")
    assert told["signed"].startswith(f"{fresh_api.base}/shared/{told['mediaId']}?")
    assert (told["labels"], told["code"]) == ({"project": "atlas"}, "not_found")


def test_the_lock_names_no_registry() -> None:
    assert '"resolved"' not in (TYPESCRIPT / "package-lock.json").read_text()
