"""What `make run` says to the person at the terminal."""

from dataclasses import replace
from pathlib import Path

import pytest

from media_core.events.webhooks import webhook_id
from media_operator.local.machine import only_eicar
from media_operator.local.run import missing_model, missing_secrets, news
from media_operator.local.site import Site
from media_operator.local.target import in_files
from media_operator.plan.observed import Notes, WebhookNote
from media_operator.tenant.spec import MediaTenant
from media_operator.tenant.status import Condition


def condition(status: str, reason: str, message: str) -> Condition:
    return Condition.model_validate(
        {"type": "ApiReady", "status": status, "reason": reason, "message": message, "observedGeneration": 1}
    )


@pytest.mark.parametrize(
    ("before", "now", "is_told"),
    [
        (
            ("False", "CrashLoop", "it ended: no such folder"),
            ("False", "CrashLoop", "it ended: no right to read"),
            True,
        ),
        (
            ("False", "Failing", "3 events wait since 10:04:07"),
            ("False", "Failing", "14 events wait since 9:00"),
            False,
        ),
        (("True", "Serves", "the api answers"), ("True", "Serves", "the api answers slowly"), False),
        (("True", "Serves", "the api answers"), ("False", "Serves", "the api answers"), True),
        (("True", "Serves", "the api answers"), ("True", "Rolling", "the api answers"), True),
    ],
)
def test_a_condition_is_told_again_where_its_cause_is_another(
    before: tuple[str, str, str], now: tuple[str, str, str], is_told: bool
) -> None:
    status, reason, message = now
    told = news([condition(*before)], [condition(*now)])
    assert told == ([f"ApiReady is {status} ({reason}): {message}"] if is_told else [])


@pytest.mark.parametrize("model", ["/nonexistent/model", "./model", "../model", "~/model"])
def test_a_folder_of_a_speech_model_that_is_not_there_is_told_as_one(model: str) -> None:
    assert missing_model(model).startswith(f"There is no folder {model}, so no recording can be transcribed")


@pytest.mark.parametrize("model", ["small", "example/whisper-small"])
def test_a_name_of_a_speech_model_is_downloaded(model: str) -> None:
    assert missing_model(model).startswith(f"The first transcription downloads the speech model {model}; ")


def test_a_scanner_without_official_signatures_is_told_with_the_log_and_the_setting(tmp_path: Path) -> None:
    log = tmp_path / "freshclam.log"
    assert "freshclam.log" not in only_eicar(log)
    log.touch()
    said = only_eicar(log)
    assert said.startswith("ONLY THE EICAR TEST FILE")
    assert f"{log} says why; MEDIA_SIGNATURES_MIRROR names the place" in said


HOOK = "https://app.example/hooks?key=hush"


def with_a_webhook() -> MediaTenant:
    return MediaTenant.read(
        {
            "apiVersion": "media.scaiwave.io/v1alpha1",
            "kind": "MediaTenant",
            "metadata": {"name": "acme"},
            "spec": {"webhooks": [{"url": HOOK, "secretRef": {"name": "app-hook"}}]},
        }
    )


def test_a_condition_names_the_file_that_a_webhooks_secret_is_here(tmp_path: Path) -> None:
    note = WebhookNote(webhook_id(HOOK), "app.example", None, "its secret app-hook/secret is not there", 0, None)
    of_before = replace(note, webhook_id="of a spec of before")
    site = Site(tmp_path, "127.0.0.1", 8080, 8081)
    now, before = in_files(Notes(webhooks=(note, of_before)), with_a_webhook(), site).webhooks
    assert now.error == f"its secret {tmp_path}/acme/webhooks/app-hook/secret is not there"
    assert before == of_before


def test_the_file_of_a_webhooks_secret_is_named_until_it_is_there(tmp_path: Path) -> None:
    tenant = with_a_webhook()
    site = Site(tmp_path, "127.0.0.1", 8080, 8081)
    secret = tmp_path / "acme" / "webhooks" / "app-hook" / "secret"
    (line,) = missing_secrets(tenant, site)
    assert line.startswith("The webhook to app.example waits for its secret: ")
    assert str(secret) in line
    secret.parent.mkdir(parents=True)
    secret.touch()
    assert missing_secrets(tenant, site) == []
