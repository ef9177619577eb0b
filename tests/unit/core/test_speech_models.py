import pytest

from media_core.transcripts.speech_models import translates
from media_operator.plan.desired import api_settings
from media_operator.tenant.spec import MediaTenant


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("small", True),
        ("large-v3", True),
        ("Systran/faster-whisper-medium", True),
        ("/models/turbo/faster-whisper-small", True),
        ("/home/en/models/base", True),
        ("turbo", False),
        ("large-v3-turbo", False),
        ("deepdml/faster-whisper-large-v3-turbo-ct2", False),
        ("small.en", False),
        ("Systran/faster-whisper-tiny.en", False),
        ("distil-large-v3", False),
        ("Systran/faster-distil-whisper-large-v3", False),
        ("/cache/models--Systran--faster-whisper-base.en/snapshots/3d3d5dee26484f91867d81cb899cfcf72b96be6c", False),
        ("/cache/models--Systran--faster-whisper-base/snapshots/3d3d5dee26484f91867d81cb899cfcf72b96be6c", True),
    ],
)
def test_a_models_name_says_whether_it_translates(model: str, expected: bool) -> None:
    assert translates(model) is expected


@pytest.mark.parametrize(
    ("transcription", "expected"),
    [
        ({"model": "turbo"}, {"MEDIA_WHISPER_MODEL": "turbo"}),
        ({"model": "medium"}, {}),
        ({}, {}),
        ({"model": "turbo", "enabled": False}, {}),
    ],
)
def test_the_api_is_told_of_a_model_that_does_not(transcription: dict[str, object], expected: dict[str, str]) -> None:
    tenant = MediaTenant.read(
        {
            "apiVersion": "media.scaiwave.io/v1alpha1",
            "kind": "MediaTenant",
            "metadata": {"name": "acme", "generation": 1},
            "spec": {"transcription": transcription},
        }
    )
    told = api_settings(tenant)
    assert {name: value for name, value in told.items() if name.startswith("MEDIA_WHISPER_")} == expected
