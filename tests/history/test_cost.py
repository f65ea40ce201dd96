"""Who asks for no history pays nothing for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys, threading
from kafka_layer.testing import InMemoryKafkaChannelLayer

def loaded():
    return sorted(each for each in sys.modules if each.startswith("kafka_layer.history"))

def threads():
    return [each.name for each in threading.enumerate() if each.name == "kafka-layer-past"]

layer = InMemoryKafkaChannelLayer(prefix="cost")
layer.group_send_sync("room", {})
assert not loaded() and not threads(), (loaded(), threads())
assert layer.group_history_sync("room").messages == [{}]
assert loaded()
"""


@pytest.mark.slow
def test_nothing_is_loaded_before_the_first_question() -> None:
    code = f"from django.conf import settings\nsettings.configure(SECRET_KEY='key')\n{CODE}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)
