"""Plain ``manage.py test``: what one test sent is not there in the next, and Kafka is warned of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kafka_layer.testing import EmbeddedBroker

REPOSITORY = Path(__file__).parents[2]

SETTINGS = """
SECRET_KEY = "tests"
INSTALLED_APPS = ["kafka_layer", "channels"]
CHANNEL_LAYERS = {{
    "default": {{"BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer"}},
    "real": {{"BACKEND": "kafka_layer.layer.KafkaChannelLayer", "CONFIG": {config!r}}},
}}
"""

TESTS = """
import asyncio

from asgiref.sync import async_to_sync
from django.test import SimpleTestCase

from kafka_layer import get_layer
from kafka_layer.testing import FreshChannelLayers


async def job_of(layer, seconds):
    try:
        return await asyncio.wait_for(layer.receive("jobs"), seconds)
    except asyncio.TimeoutError:
        return None


class Sends:
    seconds = 1

    # Each finds what the other one left, if anything does.
    def test_one(self):
        self.assertIsNone(async_to_sync(job_of)(get_layer(), 1))
        get_layer().send_sync("jobs", {"type": "of.one"})

    def test_two(self):
        self.assertIsNone(async_to_sync(job_of)(get_layer(), self.seconds))
        get_layer().send_sync("jobs", {"type": "of.two"})


class WithTheMixin(FreshChannelLayers, Sends, SimpleTestCase):
    def test_kafka_is_replaced(self):
        get_layer("real").send_sync("jobs", {"type": "never.there"})


class WithFlush(Sends, SimpleTestCase):
    def setUp(self):
        get_layer().flush_sync()


class Plain(Sends, SimpleTestCase):
    # There is one, however slow the machine is.
    seconds = 30


class Forgotten(SimpleTestCase):
    def test_it(self):
        get_layer("real").group_send_sync("room", {"type": "real"})
        get_layer("real").close_sync()
"""


def run(folder: Path, *names: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "django", "test", *(f"tests.{name}" for name in names)],
        cwd=folder,
        env={"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": f"{folder}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_test_begins_without_the_jobs_of_the_one_before(
    embedded: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "settings.py").write_text(SETTINGS.format(config=embedded.config(prefix=prefix)))
    (tmp_path / "tests.py").write_text(TESTS)

    status, said = run(tmp_path, "WithTheMixin", "WithFlush")
    assert status == 0, said
    assert "Ran 5 tests" in said
    assert "The tests use the Kafka" not in said

    status, said = run(tmp_path, "Plain", "Forgotten")
    assert "FAILED (failures=1)" in said, "without either it would need no mixin"
    assert "RuntimeWarning: The tests use the Kafka of CHANNEL_LAYERS" in said
