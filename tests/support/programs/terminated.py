"""Sends messages to a group and is ended by SIGTERM, of which it knows nothing.

Arguments: the layer's CONFIG as JSON, the group, and how many messages.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from tests.support.patience import PatientLayer


def main() -> None:
    layer = PatientLayer(**json.loads(sys.argv[1]))
    for number in range(int(sys.argv[3])):
        layer.group_send_sync(sys.argv[2], {"kind": "group", "n": number})
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(60)


if __name__ == "__main__":
    main()
