"""The api's settings, as a person writes them."""

from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from media_api.settings import WebhookSettings
from media_core.settings import complaints


def test_networks_are_listed_and_one_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_WEBHOOK_ALLOW_NETWORKS", "10.20.0.0/16, fd00::/8")
    assert WebhookSettings().webhook_allow_networks == (ip_network("10.20.0.0/16"), ip_network("fd00::/8"))
    monkeypatch.setenv("MEDIA_WEBHOOK_ALLOW_NETWORKS", "127.0.0.0/33")
    with pytest.raises(ValidationError) as raised:
        WebhookSettings()
    assert complaints(raised.value) == [
        "MEDIA_WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/33' does not appear to be an IPv4 or IPv6 network"
    ]
