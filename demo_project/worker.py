"""One process of the demo, as `manage.py demo` starts it: it ends when its parent does.

`web` is daphne on a socket that is handed over. Unlike with `daphne --fd`, the socket starts
to listen only when the application is imported, so that no connection waits for a worker that
is still starting. `jobs` is `manage.py runworker`. `market` is the program that writes the
prices of the board; it needs neither daphne nor Django, which the others import for themselves.
"""

import argparse
import importlib
import os
import signal
import socket
import sys
import threading

from demo_project import market

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


def serve(descriptor: int, *, access_log: bool) -> None:
    """Run daphne on a bound socket."""
    from daphne.cli import CommandLineInterface

    importlib.import_module(APPLICATION.partition(":")[0])
    listener = socket.socket(fileno=descriptor)
    listener.listen(socket.SOMAXCONN)
    listener.detach()  # daphne takes the descriptor over
    _report("listening")
    CommandLineInterface().run(
        [
            *("--fd", str(descriptor)),
            *("--verbosity", "1" if access_log else "0"),
            *("--websocket-max-message-size", str(MAX_FRAME_BYTES)),
            *("--websocket-max-frame-size", str(MAX_FRAME_BYTES)),
            APPLICATION,
        ]
    )


def work() -> None:
    """Do background jobs."""
    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo_project.settings")
    _report("waiting for jobs")
    execute_from_command_line(["manage.py", "runworker", "jobs"])


def _report(state: str) -> None:
    sys.stdout.write(f"{state} (pid {os.getpid()})\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent-pipe", type=int, required=True)
    kinds = parser.add_subparsers(dest="kind", required=True)
    web = kinds.add_parser("web")
    web.add_argument("--fd", type=int, required=True, help="a bound socket")
    web.add_argument("--access-log", action="store_true")
    kinds.add_parser("jobs")
    kinds.add_parser("market")
    options = parser.parse_args()

    threading.Thread(
        target=end_with_parent, args=[options.parent_pipe], name="parent-watch", daemon=True
    ).start()
    if options.kind == "web":
        serve(options.fd, access_log=options.access_log)
    elif options.kind == "jobs":
        work()
    else:
        market.main()


if __name__ == "__main__":
    main()
