"""Prometheus metrics of a worker, served while it runs if `MEDIA_METRICS_PORT` is set."""

from prometheus_client import Counter, Histogram, start_http_server

_JOBS = Counter("media_worker_jobs_total", "Jobs that ended, by kind and outcome.", ["kind", "outcome"])
_SECONDS = Histogram(
    "media_worker_job_seconds",
    "Wall time of one attempt at a job.",
    ["kind"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
)


def job_ended(kind: str, outcome: str, seconds: float) -> None:
    _JOBS.labels(kind, outcome).inc()
    _SECONDS.labels(kind).observe(seconds)


def serve(port: int | None) -> None:
    if port is not None:
        start_http_server(port, addr="127.0.0.1" if port == 0 else "0.0.0.0")  # noqa: S104 (scraped from other pods)
