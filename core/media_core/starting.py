"""The start of a process. It is imported before anything else of ours, so it imports next to nothing itself."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Around a program's imports. What they make stays: the collector of garbage looks at it neither now nor later."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()
