"""The certificate authorities that this process trusts. Libraries read their file when a client is opened, and never
again. So whoever keeps a client opens another one once the file is another one.
"""

import os
from pathlib import Path

_last: tuple[int, int, int] | None = None


def authorities() -> tuple[int, int, int] | None:
    """Another value once the file that `SSL_CERT_FILE` names was replaced. None: the system's own are trusted.

    A file that is away for a moment is taken for the one before.
    """
    global _last
    file = os.environ.get("SSL_CERT_FILE")
    if not file:
        return None
    try:
        found = Path(file).stat()
    except OSError:
        return _last
    _last = (found.st_ino, found.st_mtime_ns, found.st_size)
    return _last
