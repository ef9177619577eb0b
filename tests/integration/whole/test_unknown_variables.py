"""Each program names a misspelt variable before anything else happens."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port


@pytest.mark.parametrize("program", [["media_api"], ["media_workers", "sweep"], ["media_operator"]])
def test_a_program_warns_once_of_a_misspelt_variable(program: list[str], tmp_path: Path) -> None:
    """None of them gets further than its start: the database, the cluster or the port is missing."""
    nowhere = f"127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDIA_")} | {
            "MEDIA_API_PORT": str(taken.getsockname()[1]),
            "MEDIA_API_HOST": "127.0.0.1",
            "MEDIA_PUBLIC_URL": "http://127.0.0.1",
            "MEDIA_TENANT_ID": "acme",
            "MEDIA_DATABASE_URL": f"postgresql+psycopg://acme:unused@{nowhere}/media",
            "MEDIA_STORE": "folder",
            "MEDIA_STORE_FOLDER": str(tmp_path),
            "MEDIA_STORE_SIGNING_KEY": "k" * 40,
            "MEDIA_JWKS_FILE": str(tmp_path / "jwks.json"),
            "MEDIA_OPERATOR_DATABASE_URL": f"postgresql+psycopg://owner:unused@{nowhere}/media",
            "MEDIA_OPERATOR_S3_ENDPOINT": f"http://{nowhere}",
            "MEDIA_OPERATOR_S3_ACCESS_KEY_ID": "key",
            "MEDIA_OPERATOR_S3_SECRET_ACCESS_KEY": "unused",
            "MEDIA_OPERATOR_API_IMAGE": "api:1",
            "MEDIA_OPERATOR_WORKER_IMAGE": "workers:1",
            "MEDIA_OPERATOR_CLAMD_HOST": "clamd",
            "MEDIA_OPERATOR_HTTP_HOST": "127.0.0.1",
            "MEDIA_OPERATOR_HTTP_PORT": "0",
            "MEDIA_OPERATOR_NAMESPACE": "media",
            "KUBECONFIG": str(tmp_path / "no-such-file"),
            "HOME": str(tmp_path),
            "MEDIA_LOGLEVEL": "debug",
        }
        command = [sys.executable, "-m", *program]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode
    lines = [json.loads(line) for line in ended.stderr.splitlines() if '"unknown_variable"' in line]
    assert [(line["variable"], line["detail"]) for line in lines] == [
        ("MEDIA_LOGLEVEL", "nothing reads it: did you mean MEDIA_LOG_LEVEL?")
    ], ended.stderr
