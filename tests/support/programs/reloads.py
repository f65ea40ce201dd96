"""Runs under Django's autoreloader, as runserver does: sends, is reloaded, sends again, is ended.

Arguments: the layer's CONFIG as JSON, a group, how many messages each run sends, and an empty file:
the first run changes it, and the reloader watches it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.utils import autoreload

from kafka_layer.layer import KafkaChannelLayer

layer = KafkaChannelLayer(**json.loads(sys.argv[1]))
group, count, watched = sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])


def serve() -> None:
    run = 2 if watched.stat().st_size else 1
    for number in range(count):
        layer.group_send_sync(group, {"run": run, "n": number})
    if run == 2:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()  # as a server does; this thread is a daemon
    while True:
        # Again and again: the reloader may not have looked at it yet. It is never empty again: this
        # process may end just then, and the next one would take itself for the first.
        with watched.open("a") as file:
            file.write(f"{time.time_ns()}\n")
        time.sleep(0.1)


def watch(sender: Any, **_: Any) -> None:
    sender.extra_files.add(watched)


def main() -> None:
    settings.configure()
    django.setup()
    autoreload.autoreload_started.connect(watch)
    autoreload.run_with_reloader(serve)


if __name__ == "__main__":
    main()
