"""A Celery application, whose queue is a folder: ``LAYER_FOLDER``; see ``ending_tasks``."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery
from celery.signals import worker_process_shutdown

from tests.support.programs.ending_tasks import closed, send_all

_FOLDER = Path(os.environ["LAYER_FOLDER"])

app = Celery(
    broker="filesystem://",
    broker_transport_options={
        "data_folder_in": str(_FOLDER),
        "data_folder_out": str(_FOLDER),
        "control_folder": str(_FOLDER),
        "polling_interval": 0.1,
    },
)


@app.task(name="send")
def send() -> None:
    send_all()
    # The test that started the worker waits for this file.
    (_FOLDER / "sent").touch()


@worker_process_shutdown.connect
def close_layer(**kwargs: object) -> None:
    closed.close_sync()
