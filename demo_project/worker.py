"""One worker process of the demo: daphne on a socket that `manage.py demo` hands over.

It adds two things to `daphne --fd`: the socket starts to listen only when the application
is imported, so no connection waits for a worker that is still starting, and the process
ends when its parent does, however that ended.
"""

import argparse
import importlib
import os
import signal
import socket
import sys
import threading

from daphne.cli import CommandLineInterface

APPLICATION = "demo_project.asgi:application"
MAX_FRAME_BYTES = 64 * 1024
"""Daphne closes a websocket that sends more in one message."""
ORPHAN_GRACE = 3.0
"""Seconds that an orphaned worker has to end by itself."""


def end_with_parent(pipe: int) -> None:
    """End this process when the last writer of `pipe`, the parent, is gone."""
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(ORPHAN_GRACE)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="a bound socket")
    parser.add_argument("--parent-pipe", type=int, required=True)
    parser.add_argument("--access-log", action="store_true")
    options = parser.parse_args()

    threading.Thread(
        target=end_with_parent, args=[options.parent_pipe], name="parent-watch", daemon=True
    ).start()
    importlib.import_module(APPLICATION.partition(":")[0])

    listener = socket.socket(fileno=options.fd)
    listener.listen(socket.SOMAXCONN)
    listener.detach()  # daphne takes the descriptor over
    sys.stdout.write(f"listening (pid {os.getpid()})\n")
    sys.stdout.flush()
    CommandLineInterface().run(
        [
            *("--fd", str(options.fd)),
            *("--verbosity", "1" if options.access_log else "0"),
            *("--websocket-max-message-size", str(MAX_FRAME_BYTES)),
            *("--websocket-max-frame-size", str(MAX_FRAME_BYTES)),
            APPLICATION,
        ]
    )


if __name__ == "__main__":
    main()
