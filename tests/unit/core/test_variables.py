"""A misspelt environment variable is named in the log."""

import importlib
import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from media_core import variables
from media_core.settings import EnvironmentSettings

REPOSITORY = Path(__file__).parents[3]
MODULES = (
    "media_core.settings",
    "media_core.store",
    "media_core.store.s3_settings",
    "media_api.settings",
    "media_workers.settings",
    "media_operator.settings",
)


def test_every_setting_of_every_program_is_known() -> None:
    for module in MODULES:
        importlib.import_module(module)
    read = {
        f"{settings.model_config['env_prefix']}{field}".upper()
        for settings in EnvironmentSettings.__subclasses__()
        if settings.__module__ in MODULES
        for field in settings.model_fields
    }
    assert read == variables.SETTINGS


def test_what_tests_and_tools_read_is_known() -> None:
    """Names in full, as arguments of `environ`."""
    read = {
        name
        for folder in ("tests", "bench", "page", "docs")
        for file in (REPOSITORY / folder).rglob("*.py")
        if "node_modules" not in file.parts and file != Path(__file__)
        for line in file.read_text().splitlines()
        if "os.environ" in line
        for name in re.findall(r'"(MEDIA_[A-Z0-9_]+[A-Z0-9])"', line)
    }
    assert {"MEDIA_SOAK_SECONDS", "MEDIA_TOOLS_CACHE"} <= read
    assert list(variables.unknown(dict.fromkeys(read, ""))) == []


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("MEDIA_API_PROT", "did you mean MEDIA_API_PORT?"),
        ("MEDIA_LOGLEVEL", "did you mean MEDIA_LOG_LEVEL?"),
        ("MEDIA_WHISPER_MODLE", "did you mean MEDIA_WHISPER_MODEL?"),
        ("media_public_ulr", "did you mean MEDIA_PUBLIC_URL?"),
        ("MEDIA_OPERATOR_S3_ENDPIONT", "did you mean MEDIA_OPERATOR_S3_ENDPOINT?"),
        ("MEDIA_FAVOURITE_COLOUR", "docs/configuration.md names all"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, written: str, said: str
) -> None:
    for name in list(variables.unknown()):
        monkeypatch.delenv(name)
    monkeypatch.setenv(written, "a value that no log has")
    with capture_logs() as logged:
        variables.warn_of_unknown()
    (line,) = logged
    assert (line["event"], line["log_level"], line["variable"]) == ("unknown_variable", "warning", written)
    assert line["detail"].endswith(said)
    assert "a value" not in str(line)


def test_nothing_is_said_of_variables_that_are_known_or_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(variables.unknown()):
        monkeypatch.delenv(name)
    for name in ("MEDIA_API_PORT", "media_log_level", "MEDIA_OPERATOR_MAX_JOBS", "MEDIAWIKI_HOST", "MEDIA"):
        monkeypatch.setenv(name, "1")
    with capture_logs() as logged:
        variables.warn_of_unknown()
    assert logged == []
