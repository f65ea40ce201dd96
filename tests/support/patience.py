"""The time that tests give a start: a machine that runs several at a time is slow."""

from __future__ import annotations

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer

__all__ = ["START", "PatientLayer"]

START = 30.0
"""Seconds that a start may take where a test does not say it; usually it is far less than one."""


class PatientLayer(KafkaChannelLayer):
    """A layer for tests that do not make theirs with ``make_layer``."""

    timings = Timings(start=START)
