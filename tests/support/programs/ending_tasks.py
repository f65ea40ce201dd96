"""Tasks of Celery and RQ that send 300 messages by each of two layers.

Their process ends by ``os._exit``.
``LAYER_CONFIG`` is the layers' CONFIG as JSON. One is closed as docs/deployment.md says; the other
is not. Each message says which of them sent it.
"""

from __future__ import annotations

import json
import os

from tests.support.patience import PatientLayer

COUNT = 300

closed, bare = (PatientLayer(**json.loads(os.environ["LAYER_CONFIG"])) for _ in range(2))


def send_all() -> None:
    for by, layer in (("bare", bare), ("closed", closed)):
        for number in range(COUNT):
            layer.group_send_sync("room", {"type": "sent", "by": by, "n": number})


def job() -> None:
    """What RQ calls."""
    send_all()
    closed.close_sync()
