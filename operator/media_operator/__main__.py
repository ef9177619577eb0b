"""`python -m media_operator`: the operator of a cluster; see `main`."""

import sys

from media_core.starting import importing

with importing():
    from media_operator.main import main

if __name__ == "__main__":
    sys.exit(main())
