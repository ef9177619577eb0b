"""The manifests and files of `helm test`. Other tests run it against the real api and on a cluster."""

import wave

import pytest

from media_operator.helm_hooks import install_check
from media_operator.tenant.spec import MediaTenant


@pytest.mark.parametrize("given", [[], ["--model=/models/tiny-words"], ["--without-transcription"]])
def test_its_tenant_is_a_valid_one_that_leaves_nothing_behind(given: list[str]) -> None:
    asked = install_check.arguments(["media-system", "media-test", *given])
    spec = MediaTenant.model_validate(install_check.manifest(**vars(asked))).spec
    assert spec.storage.deletion_policy == "Delete"
    assert spec.transcription.enabled == ("--without-transcription" not in given)


def test_its_transcription_fits_a_small_node() -> None:
    tenant = MediaTenant.model_validate(install_check.manifest("media-system", "media-test", transcription=True))
    assert tenant.spec.transcription.resources.requests["cpu"] == "100m"
    assert tenant.spec.transcription.max_parallel == 1


def test_its_recording_is_a_short_one() -> None:
    with wave.open(str(install_check.RECORDING)) as recording:
        assert 1 < recording.getnframes() / recording.getframerate() < 10
