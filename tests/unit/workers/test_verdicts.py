"""The verdict for each reply line of clamd: only one line is "clean"."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media_operator.local.clamd import ScanLimits, configuration
from media_workers.scanning.clamd import interpret
from media_workers.settings import ClamdSettings

ENGINE = "ClamAV 1.4.6/27812/Mon Nov 23 08:25:11 2026"


def test_ok_is_clean() -> None:
    verdict = interpret("stream: OK", ENGINE)
    assert (verdict.status, verdict.detail, verdict.engine) == ("clean", None, ENGINE)


@pytest.mark.parametrize(
    "name", ["Win.Test.EICAR_HDB-1", "Heuristics.Phishing.Email.SpoofedDomain", "Heuristics.Zip.OverlappingFiles"]
)
def test_a_signature_is_infected_and_named(name: str) -> None:
    verdict = interpret(f"stream: {name} FOUND", ENGINE)
    assert (verdict.status, verdict.detail) == ("infected", name)


@pytest.mark.parametrize(
    "name",
    [
        "Heuristics.Limits.Exceeded.MaxFileSize",
        "Heuristics.Limits.Exceeded.MaxScanSize",
        "Heuristics.Limits.Exceeded.MaxScanTime",
        "Heuristics.Limits.Exceeded.EmailHeaders",
        "Heuristics.Limits.Exceeded",
        "Heuristics.Encrypted.Zip",
        "Heuristics.Encrypted.PDF",
        "Heuristics.XZ.DicSizeLimit",
        "Heuristics.Skipped.Zip64.UNOFFICIAL",
    ],
)
def test_what_clamd_did_not_look_into_is_unscannable(name: str) -> None:
    verdict = interpret(f"stream: {name} FOUND", ENGINE)
    assert (verdict.status, verdict.detail) == ("unscannable", name)


@pytest.mark.parametrize(
    "name", ["Heuristics.Phishing.Email.SpoofedDomain", "Heuristics.Broken.Executable", "PUA.Win.Packer.Upx-1"]
)
def test_a_guess_is_what_the_setting_says(name: str) -> None:
    assert interpret(f"stream: {name} FOUND", ENGINE, ClamdSettings().heuristics).status == "unscannable"
    assert interpret(f"stream: {name} FOUND", ENGINE, "infected").status == "infected"


@pytest.mark.parametrize("heuristics", ["unscannable", "infected"])
def test_no_setting_makes_a_virus_less_or_what_was_skipped_more(
    heuristics: Literal["unscannable", "infected"],
) -> None:
    for name in ("Win.Test.EICAR_HDB-1", "Heuristic.Of.Somebody.Else", "Win.Heuristics.Phishing"):
        assert interpret(f"stream: {name} FOUND", ENGINE, heuristics).status == "infected"
    assert interpret("stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND", ENGINE, heuristics).status == "unscannable"
    assert interpret("stream: OK", ENGINE, heuristics).status == "clean"


def test_a_stream_over_the_limit_is_unscannable() -> None:
    assert interpret("INSTREAM size limit exceeded. ERROR", ENGINE).status == "unscannable"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "OK",
        "stream: ok",
        "stream: OK ",
        " stream: OK",
        "stream: OK\nstream: OK",
        "stream: OK\x00",
        "file: OK",
        "stream: FOUND",
        "stream:  FOUND",
        "stream: A B FOUND",
        "stream: Eicar FOUND FOUND",
        "stream: Can't write to file ERROR",
        "Error writing to temporary file ERROR",
        "stream: Heuristics.Encrypted.Zip ERROR",
        "UNKNOWN COMMAND",
        "PONG",
    ],
)
def test_anything_else_is_an_error(reply: str) -> None:
    assert interpret(reply, ENGINE).status == "error"


@given(st.text() | st.from_regex(r"(stream: )?(\S{0,20} ?)?(OK|FOUND|ERROR)?\s?"))
def test_no_other_line_is_clean(reply: str) -> None:
    assert (interpret(reply, ENGINE).status == "clean") == (reply == "stream: OK")


def test_the_configuration_reports_what_it_skips() -> None:
    """`configuration` says why it needs them."""
    limits = ScanLimits()
    lines = dict(line.split(" ", 1) for line in configuration(3310, limits).splitlines())
    for setting in ("AlertExceedsMax", "AlertEncrypted", "AlertEncryptedArchive", "AlertEncryptedDoc", "DisableCache"):
        assert lines[setting] == "yes"
    sizes = {name: int(lines[name].removesuffix("M")) for name in ("StreamMaxLength", "MaxFileSize", "MaxScanSize")}
    assert sizes["MaxScanSize"] <= sizes["MaxFileSize"]
    assert sizes["StreamMaxLength"] <= sizes["MaxFileSize"] < 2048
    assert lines["TCPAddr"] == "127.0.0.1"
    assert "User" not in lines
    assert "LocalSocket" not in lines
