"""Tasks of Celery and RQ that send 300 messages, in a process that ends by ``os._exit``.

``LAYER_CONFIG`` is the layer's CONFIG as JSON. ``LAYER_ENDING`` is "closing" where the layer is
closed as docs/deployment.md says.
"""

from __future__ import annotations

import json
import os

from tests.support.patience import PatientLayer

COUNT = 300
CLOSES = os.environ["LAYER_ENDING"] == "closing"

layer = PatientLayer(**json.loads(os.environ["LAYER_CONFIG"]))


def send_all() -> int:
    for number in range(COUNT):
        layer.group_send_sync("room", {"type": "sent", "by": os.getpid(), "n": number})
    return os.getpid()


def job() -> None:
    """What RQ calls."""
    send_all()
    if CLOSES:
        layer.close_sync()
