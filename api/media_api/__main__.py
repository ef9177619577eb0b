"""`python -m media_api`: serves the tenant that the environment (`MEDIA_*`) describes, until SIGTERM."""

import socket
import sys

import structlog
from pydantic import ValidationError

from media_api import server
from media_api.app import create_app, services_of
from media_api.metrics import Metrics
from media_api.settings import Settings
from media_core import logs
from media_core.settings import complaints
from media_core.store import open_store

_log = structlog.stdlib.get_logger("media.api")


def main() -> int:
    try:
        settings = Settings()
        open_store(settings.store, settings.tenant.tenant_id)  # makes no request; says now what can't be
    except ValidationError as error:
        print("\n".join(complaints(error)), file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"MEDIA_STORE: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log.format, settings.log.level)
    bind = settings.server
    metrics = Metrics()
    try:
        listener = socket.create_server(
            (bind.host, bind.port), family=socket.AF_INET6 if ":" in bind.host else socket.AF_INET, backlog=2048
        )
        metrics_port = metrics.serve(bind.metrics_host, bind.metrics_port) if bind.metrics_port is not None else None
    except OSError as error:
        print(
            f"can't listen on {bind.host}:{bind.port} (metrics: {bind.metrics_port}): {error.strerror}", file=sys.stderr
        )
        return 1
    app = create_app(settings, metrics)

    def drain() -> None:
        if (services := services_of(app)) is not None:
            services.drain()

    config = server.config(app, shutdown_seconds=bind.shutdown_seconds, trusted_proxies=bind.trusted_proxies)
    _log.info(
        "listening",
        host=bind.host,
        port=listener.getsockname()[1],
        metrics_port=metrics_port,
        tenant=settings.tenant.tenant_id,
    )
    running = server.Server(config, drain)
    running.run(sockets=[listener])
    _log.info("stopped")
    return 0 if running.started else 1


if __name__ == "__main__":
    sys.exit(main())
