"""`python -m media_operator.local MANIFEST`: one tenant on this machine; see `run`."""

import gc
import sys

gc.disable()  # what imports make stays, so it need not be looked through again and again, nor at the end

from media_operator.local.run import main  # noqa: E402

if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    sys.exit(main())
