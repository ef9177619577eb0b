"""The zygote, from which decoding children are forked: `python -I -m media_core.decoding.zygote PARENT`.

It imports and warms the decoders once, so that a child starts in milliseconds and shares the loaded memory. It takes
orders on descriptor 0 and never reads a source. An order says how much memory a child may take, and has two sockets
with it:

- The wire goes to the child alone, where it becomes descriptor 0.
- The leash stays here. When the parent closes its end, the zygote ends the child, and writes the child's exit status.

The zygote does not confine itself: a child needs the parent's privileges for its own confinement.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

from media_core.decoding import audiovisual, child, documents, images
from media_core.decoding.confinement import end_with
from media_core.decoding.wire import ORDER, STATUS

WARM = b"warm"


def main() -> None:
    end_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on a terminal is for the parent, which ends this process
    orders = socket.socket(fileno=0)
    images.warm_up()
    documents.warm_up()
    audiovisual.warm_up()
    gc.collect()
    gc.freeze()
    ctypes.CDLL(None).malloc_trim(0)  # warming up leaves 4 MiB of free memory behind
    orders.send(WARM)
    serve(orders)


def serve(orders: socket.socket) -> None:
    """Forks and ends children until the other side closes its end."""
    leashes: dict[int, int] = {}
    """Descriptor -> the child's process id."""

    readable = select.poll()
    readable.register(orders, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in readable.poll()}
        for leash in ready & leashes.keys():  # before an order, which may be for the ended child's successor
            readable.unregister(leash)
            end(leashes.pop(leash), leash)
        if orders.fileno() not in ready:
            continue
        order, descriptors, _, _ = socket.recv_fds(orders, ORDER.size, 2)
        if not order:
            break
        wire, leash = descriptors
        (memory_bytes,) = ORDER.unpack(order)
        if (process := fork(wire, memory_bytes)) is None:
            os.close(leash)
        else:
            leashes[leash] = process
            readable.register(leash, select.POLLIN)
    for leash, process in leashes.items():
        end(process, leash)


def fork(wire: int, memory_bytes: int) -> int | None:
    """Forks a child and returns its process id; None if the fork fails."""
    parent = os.getpid()
    try:
        process = os.fork()
    except OSError:
        traceback.print_exc()
        process = None
    if process != 0:
        os.close(wire)
        return process
    try:
        os.dup2(wire, 0)
        for inherited in Path("/proc/self/fd").iterdir():
            if int(inherited.name) > 2:  # messages need 1 and 2 until `confine` closes them
                with contextlib.suppress(OSError):  # the descriptor of the listing itself
                    os.close(int(inherited.name))
        child.main(parent, memory_bytes)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # in any case: a child must not return into the zygote's loop


def end(process: int, leash: int) -> None:
    """Ends the child, and writes its exit status to the leash, negative for a signal."""
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(leash, STATUS.pack(os.waitstatus_to_exitcode(status)))
    os.close(leash)


if __name__ == "__main__":
    main()
