"""`python -m media_workers KIND`: drains one kind of job; see `main`."""

import gc
import sys

gc.disable()  # what imports make stays, so it need not be looked through again and again, nor at the end

from media_workers.main import main  # noqa: E402

if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    sys.exit(main())
