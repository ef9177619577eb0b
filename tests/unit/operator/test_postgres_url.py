"""URLs of PostgreSQL as people and other operators write them."""

import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine

from media_core.database import connection_arguments
from media_core.settings import complaints
from media_operator import postgres_url
from media_operator.settings import DatabaseSettings


@pytest.mark.parametrize(
    ("text", "hosts", "ports"),
    [
        ("postgresql://media:x@db/media", "db", None),
        ("postgres://media:x@db:6432/media?sslmode=require&channel_binding=require", "db", "6432"),
        ("postgresql://media:x@db/media\n", "db", None),
        ("postgresql://media:p%40%3A%2F%3F%23%25@db/media", "db", None),
        ("postgresql://media:x@[fd00::1]:6432/media", "fd00::1", "6432"),
        ("postgresql://media:x@a:5433,b/media?target_session_attrs=read-write", "a,b", "5433,5432"),
        ("postgresql+psycopg://media:x@a,b:5433/media", "a,b", "5432,5433"),
        ("postgresql://media:x@/media?host=a:5433&host=b:5434", "a,b", "5433,5434"),
        ("postgresql://media:x@/media?host=a,b&port=1,2", "a,b", "1,2"),
        ("postgresql://media:x@/media?host=a,b&port=6432", "a,b", "6432,6432"),
        ("postgresql://media:x@a,b/media?port=6432", "a,b", "6432,6432"),
        ("postgresql://media:x@[fd00::1]:5433,[fd00::2]/media", "fd00::1,fd00::2", "5433,5432"),
    ],
)
def test_one_host_or_several_are_read_in_every_form(text: str, hosts: str, ports: str | None) -> None:
    url = postgres_url.parsed(text)
    assert (url.drivername, url.username, url.database) == ("postgresql+psycopg", "media", "media")
    arguments = connection_arguments(url.render_as_string(hide_password=False))
    assert (arguments["host"], arguments.get("port")) == (hosts, ports)
    assert arguments["password"] == ("p@:/?#%" if "%40" in text else "x")
    ((), of_the_engine) = create_engine(url).dialect.create_connect_args(url)
    assert [str(of_the_engine.get(name)) for name in ("host", "port")] == [hosts, str(ports)]


def test_a_newline_at_the_end_of_a_secret_reaches_nobody() -> None:
    settings = DatabaseSettings(url="postgresql://media:x@db/media\n")  # type: ignore[arg-type]
    assert connection_arguments(settings.url.get_secret_value())["dbname"] == "media"


@pytest.mark.parametrize("hosts", ["db:5433", "a:5433,b:5434"])
@pytest.mark.parametrize("password", ["x,y", "1,2", "x,y/z", ","])
def test_a_comma_of_the_password_is_none_between_hosts(password: str, hosts: str) -> None:
    url = postgres_url.parsed(f"postgresql://media:{password}@{hosts}/media")
    assert (url.username, url.password, url.database) == ("media", password, "media")
    arguments = connection_arguments(url.render_as_string(hide_password=False))
    assert (arguments["host"], arguments["port"]) == (("db", "5433") if hosts == "db:5433" else ("a,b", "5433,5434"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jdbc:postgresql://db:5432/media?user=media&password=hush", "it must be postgresql://role:password@host"),
        ("host=db user=media password=hush", "it must be postgresql://role:password@host"),
        ("postgresql://media:hush@db:port/media", "it must be postgresql://role:password@host"),
        ("postgresql://media:hush@db:port,b/media", "it must be postgresql://role:password@host"),
        ("mysql://media:hush@db/media", "it must be postgresql://role:password@host"),
        ("postgresql://media:hush@db/media?schema=public", "knows no parameter schema: leave it out"),
    ],
)
def test_what_cannot_be_read_is_said_without_the_password(text: str, words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        DatabaseSettings(url=text)  # type: ignore[arg-type]
    (line,) = complaints(raised.value)
    assert line.startswith("MEDIA_OPERATOR_DATABASE_URL: ")
    assert words in line
    assert "hush" not in line
