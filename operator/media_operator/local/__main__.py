"""`python -m media_operator.local MANIFEST`: one tenant on this machine; see `run`."""

import sys

from media_core.starting import importing

with importing():
    from media_operator.local.run import main

if __name__ == "__main__":
    sys.exit(main())
