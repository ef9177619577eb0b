"""`mediactl` as a program."""

import signal


def run() -> None:
    # While it imports, nothing is under way that an exception could tell: Ctrl-C ends it as any other program.
    taken = signal.getsignal(signal.SIGINT)
    if taken is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mediactl.main import app

    signal.signal(signal.SIGINT, taken)
    app()


if __name__ == "__main__":
    run()
