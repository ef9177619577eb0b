"""`mediactl` as a program."""

import os
import signal
import sys


def run() -> None:
    _open_streams()
    # While it imports, nothing is under way that an exception could tell: Ctrl-C ends it as any other program.
    taken = signal.getsignal(signal.SIGINT)
    if taken is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mediactl.commands import app

    signal.signal(signal.SIGINT, taken)
    try:
        app()
    except OSError as error:  # commands tell theirs by themselves; help is written by typer
        sys.exit(f"mediactl: this machine: {error.strerror or error}")


def _open_streams() -> None:
    """So that output never ends a command that has done its work: file names have letters that an old encoding lacks,
    and a parent may have closed a stream.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (until the process ends)
        else:
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    run()
