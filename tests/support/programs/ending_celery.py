"""A Celery application, whose queue is a folder: ``LAYER_FOLDER``; see ``ending_tasks``."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery
from celery.signals import worker_process_shutdown

from tests.support.programs.ending_tasks import CLOSES, layer, send_all

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
    # Whoever started the worker waits for this file.
    (_FOLDER / "sent").write_text(str(send_all()))


if CLOSES:

    @worker_process_shutdown.connect
    def close_layer(**kwargs: object) -> None:
        layer.close_sync()
