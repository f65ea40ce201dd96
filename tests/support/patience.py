"""The times of the layers of tests.

A start gets longer, because a machine that runs several at a time is slow. A reader looks more
often whether its layer closes, because tests close many.
"""

from __future__ import annotations

from dataclasses import replace

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer

__all__ = ["CLOSE", "PATIENT", "START", "PatientLayer", "patient"]

START = 30.0
"""Seconds that a start may take where a test does not say it; usually it is far less than one."""

CLOSE = 30.0
"""Seconds that an end may take to write what was sent; usually it is far less than one."""

_READER_REST = 0.05


def patient(timings: Timings, **limits: float) -> Timings:
    """Return times for a test, with further ones; those that differ from the usual ones stay."""
    own = {"start": START, "reader_rest": _READER_REST, "stream_rest": _READER_REST, **limits}
    usual = Timings()
    return replace(
        timings,
        **{name: own[name] for name in own if getattr(timings, name) == getattr(usual, name)},
    )


PATIENT = patient(
    Timings(
        close=CLOSE,
        stream_start=START,
        history=START,
        history_answer=START,
        recovery=START,
    )
)
"""What a layer takes that has to succeed, on whatever machine."""


class PatientLayer(KafkaChannelLayer):
    """A layer for tests that do not make theirs with ``make_layer``."""

    timings = PATIENT
