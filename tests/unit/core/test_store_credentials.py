"""A key to S3 in a file: its form, how a renewed one is seen, and when it has ended."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from media_core.errors import Unavailable
from media_core.store import S3Settings
from media_core.store.credentials import NO_END, FixedKey, KeyFile, S3Key, as_text, parsed

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
FORM: dict[str, Any] = {"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "hidden"}


def put(path: Path, key: S3Key) -> None:
    """As the kubelet does: another file takes the name."""
    new = path.with_name("new")
    new.write_text(as_text(key))
    new.replace(path)


@pytest.mark.parametrize("key", [S3Key("AKIA", "hidden"), S3Key("ASIA", "hidden", "token", SOON)])
def test_what_is_written_is_read_again_and_notes_are_passed_over(key: S3Key) -> None:
    assert parsed(as_text(key)) == key
    assert parsed(as_text(key, {"RoleArn": "arn:aws:iam::1:role/media"})) == key


def test_the_end_of_a_key_may_be_in_any_zone() -> None:
    elsewhere = SOON.astimezone(timezone(timedelta(hours=5)))
    assert parsed(as_text(S3Key("ASIA", "hidden", "token", elsewhere))).expires_at == SOON
    assert parsed(json.dumps(FORM | {"Expiration": elsewhere.isoformat()})).expires_at == SOON


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "hidden",
        json.dumps({**FORM, "Version": 2}),
        json.dumps({**FORM, "SecretAccessKey": ""}),
        json.dumps({"Version": 1, "AccessKeyId": "AKIA"}),
        json.dumps({**FORM, "Expiration": "hidden"}),
        json.dumps({**FORM, "Expiration": "2026-11-29T01:00:00"}),
        json.dumps({**FORM, "Expiration": 1764378000}),
    ],
)
def test_what_is_no_key_is_refused_without_being_quoted(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="credential_process") as raised:
        parsed(text)
    assert "hidden" not in str(raised.value)
    (tmp_path / "key").write_text(text)
    with pytest.raises(Unavailable, match="holds no key to S3") as outage:
        KeyFile(tmp_path / "key").current()
    assert "hidden" not in str(outage.value)


def test_a_key_never_shows_its_secrets() -> None:
    assert "hidden" not in repr(S3Key("ASIA", "hidden", "hidden-too"))


def test_a_renewed_file_is_seen_at_once(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "key")
    with pytest.raises(Unavailable, match="FileNotFoundError"):
        file.current()
    for number in range(3):
        key = S3Key(f"ASIA{number}", "hidden", "token", SOON)
        put(tmp_path / "key", key)
        assert file.current() == key


def test_a_file_that_is_away_or_half_written_does_no_harm_while_the_last_key_is_good(tmp_path: Path) -> None:
    path, key = tmp_path / "key", S3Key("ASIA", "hidden", "token", SOON)
    file = KeyFile(path)
    put(path, key)
    assert file.current() == key
    path.write_text('{"Version": 1, "Acc')
    assert file.current() == key
    path.unlink()
    assert file.current() == key
    put(path, next_one := S3Key("ASIA2", "hidden", "token", SOON))
    assert file.current() == next_one


def test_a_key_that_has_ended_is_an_outage_until_another_comes(tmp_path: Path) -> None:
    path, file = tmp_path / "key", KeyFile(tmp_path / "key")
    put(path, S3Key("ASIA", "hidden", "token", datetime.now(UTC) - timedelta(seconds=1)))
    with pytest.raises(Unavailable, match=r"the key to S3 in .* ended at 20"):
        file.current()
    put(path, key := S3Key("ASIA2", "hidden", "token", SOON))
    assert file.current() == key


def test_what_is_left_of_a_key() -> None:
    key = S3Key("ASIA", "hidden", "token", SOON)
    assert key.seconds_left(SOON - timedelta(seconds=90)) == 90
    assert key.seconds_left(SOON + timedelta(seconds=90)) == 0
    assert S3Key("AKIA", "hidden").seconds_left(SOON) == NO_END


def test_a_store_has_a_key_or_a_file_with_one(tmp_path: Path) -> None:
    where: dict[str, Any] = {"endpoint": "http://s3", "bucket": "media"}
    key: dict[str, Any] = {"access_key_id": "AKIA", "secret_access_key": SecretStr("hidden")}
    assert S3Settings(**where, **key).keys() == FixedKey(S3Key("AKIA", "hidden"))
    token = S3Settings(**where, **key, session_token=SecretStr("token"))
    assert token.keys() == FixedKey(S3Key("AKIA", "hidden", "token"))
    assert isinstance(S3Settings(**where, credentials_file=tmp_path / "key").keys(), KeyFile)
    for wrong, words in (
        ({}, "are needed"),
        ({"access_key_id": "AKIA"}, "are needed"),
        ({**key, "credentials_file": tmp_path / "key"}, "in place of"),
    ):
        with pytest.raises(ValidationError, match=words):
            S3Settings(**where, **wrong)
