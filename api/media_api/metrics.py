"""Prometheus metrics, on a port of their own that clients of the API do not reach."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    start_http_server,
)

from media_core.listening import usable

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """One process's metrics. Routes are labelled by their template, so that ids make no label values."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        labels = ("method", "route")
        self.requests = Counter("media_api_requests", "Requests answered", (*labels, "status"), registry=self.registry)
        self.seconds = Histogram(
            "media_api_request_seconds",
            "From the request's head to its answer's last byte",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("media_api_requests_in_flight", "Requests being answered now", registry=self.registry)
        self.received = Counter("media_api_received_bytes", "Bytes of request bodies", labels, registry=self.registry)
        self.sent = Counter("media_api_sent_bytes", "Bytes of response bodies", labels, registry=self.registry)

    def serve(self, host: str, port: int) -> int:
        """Serves `/metrics` from a daemon thread; returns the port (0: any free one). Raises OSError if it is taken."""
        server, _ = start_http_server(port, usable(host), registry=self.registry)
        return server.server_port

    def latest(self) -> bytes:
        """The answer of `/metrics` at this moment."""
        return generate_latest(self.registry)


class _Collected:
    """A collector that asks others."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        yield from self._collect()


def serve_collected(collect: Callable[[], Iterable[Metric]], host: str, port: int) -> int:
    """As `Metrics.serve`, for metrics that are collected from other processes."""
    registry = CollectorRegistry()
    registry.register(_Collected(collect))
    server, _ = start_http_server(port, usable(host), registry=registry)
    return server.server_port
