"""What each start of api, operator and workers computes anew, computed once, by the fork server of `preloaded`.

That is above all what `abc` finds out by a look at all classes there are: whether one is a subclass of another. It
remembers that in the classes themselves, and a forked process has them. And boto3 reads what it knows of AWS' services,
for one session. Nothing here opens a connection or starts a thread.
"""

import gc
import os
from unittest.mock import patch

import uvicorn.loops.uvloop  # noqa: F401  (uvicorn imports it when it starts)

from media_api.app import create_app
from media_api.metrics import Metrics
from media_api.settings import Settings
from media_operator import main as operator
from media_operator.backends.boto import open_client
from media_workers.settings import Settings as WorkerSettings

_API = {
    "MEDIA_TENANT_ID": "rehearsal",
    "MEDIA_DATABASE_URL": "postgresql+psycopg://nobody@/nowhere",
    "MEDIA_STORE": "folder",
    "MEDIA_STORE_FOLDER": "/nonexistent",
    "MEDIA_STORE_SIGNING_KEY": "00" * 32,
    "MEDIA_PUBLIC_URL": "http://127.0.0.1:1",
    "MEDIA_JWKS_FILE": "/nonexistent",
}
_OPERATOR = {
    "MEDIA_OPERATOR_DATABASE_URL": "postgresql+psycopg://nobody@/nowhere",
    "MEDIA_OPERATOR_S3_ENDPOINT": "http://127.0.0.1:1",
    "MEDIA_OPERATOR_S3_ACCESS_KEY_ID": "nobody",
    "MEDIA_OPERATOR_S3_SECRET_ACCESS_KEY": "nothing",
    "MEDIA_OPERATOR_API_IMAGE": "api",
    "MEDIA_OPERATOR_WORKER_IMAGE": "workers",
    "MEDIA_OPERATOR_CLAMD_HOST": "127.0.0.1",
    "HOME": "/nonexistent",  # else boto3 reads the settings of the person who runs the tests
}

with patch.dict(os.environ, _API | _OPERATOR, clear=True):
    create_app(Settings(), Metrics())
    WorkerSettings()
    operator.Settings()
    for service in ("s3", "iam", "sts"):
        open_client(service, operator.Settings().store)
# A forked process that collects garbage would look through, and so copy, all of this.
gc.collect()
gc.freeze()
