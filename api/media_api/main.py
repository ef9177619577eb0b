"""`python -m media_api`: serves the tenant that the environment (`MEDIA_*`) describes, until SIGTERM."""

import socket
import sys

import structlog
from pydantic import ValidationError

from media_api import processes, server
from media_api.app import create_app, services_of
from media_api.metrics import Metrics, serve_collected
from media_api.middleware.cors import marks_of
from media_api.settings import Settings
from media_core import logs, variables
from media_core.listening import listen
from media_core.settings import complaints
from media_core.store import open_store

_log = structlog.stdlib.get_logger("media.api")


def main() -> int:
    try:
        settings = Settings()
        open_store(settings.store, settings.tenant.tenant_id)  # makes no request; raises now for wrong settings
    except ValidationError as error:
        print("\n".join(complaints(error)), file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"MEDIA_STORE: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log.format, settings.log.level)
    variables.warn_of_unknown()
    bind = settings.server
    count = bind.processes or processes.granted()
    try:
        listener = listen(bind.host, bind.port)
        if count == 1:
            return _serve(settings, listener, count)
        return _serve_together(settings, listener, count)
    except OSError as error:
        print(
            f"can't listen on {bind.host}:{bind.port} (metrics: {bind.metrics_port}): {error.strerror}", file=sys.stderr
        )
        return 1


def _serve(settings: Settings, listener: socket.socket, count: int, asked: socket.socket | None = None) -> int:
    """Runs one process. The only one serves its metrics itself; one of `count` sends them when it is `asked`."""
    bind = settings.server
    metrics = Metrics()
    if asked is not None:
        processes.answer_for_metrics(asked, metrics.latest)
    else:
        metrics_port = metrics.serve(bind.metrics_host, bind.metrics_port) if bind.metrics_port is not None else None
        _say_listening(settings, listener, metrics_port)
    app = create_app(settings, metrics, processes=count)

    def drain() -> None:
        if (services := services_of(app)) is not None:
            services.drain()

    config = server.config(
        app,
        shutdown_seconds=bind.shutdown_seconds,
        trusted_proxies=bind.trusted_proxies,
        marks=marks_of(settings.cors.origins),
    )
    running = server.Server(config, drain)
    running.run(sockets=[listener])
    _log.info("stopped")
    return 0 if running.started else 1


def _serve_together(settings: Settings, listener: socket.socket, count: int) -> int:
    bind = settings.server
    together = processes.Processes(count, lambda _number, asked: _serve(settings, listener, count, asked))
    together.start()
    metrics_port = None
    if bind.metrics_port is not None:
        metrics_port = serve_collected(
            lambda: processes.summed(together.metrics()), bind.metrics_host, bind.metrics_port
        )
    _say_listening(settings, listener, metrics_port)
    return together.wait()


def _say_listening(settings: Settings, listener: socket.socket, metrics_port: int | None) -> None:
    _log.info(
        "listening",
        host=settings.server.host,
        port=listener.getsockname()[1],
        metrics_port=metrics_port,
        tenant=settings.tenant.tenant_id,
    )
