"""`python -m media_workers KIND`: drains one kind of job; see `main`."""

import sys

from media_core.starting import importing

with importing():
    from media_workers.main import main

if __name__ == "__main__":
    sys.exit(main())
