"""`python -m media_api`: serves one tenant; see `main`."""

import sys

from media_core.starting import importing

with importing():
    from media_api.main import main

if __name__ == "__main__":
    sys.exit(main())
