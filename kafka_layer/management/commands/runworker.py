"""Channels' ``runworker``, with a worker that loses no message when it is stopped."""

from __future__ import annotations

from channels.management.commands.runworker import Command as RunWorker

from kafka_layer.worker import OneAtATimeWorker

__all__ = ["Command"]


class Command(RunWorker):  # type: ignore[misc, unused-ignore]
    """Same arguments as Channels' own; see ``kafka_layer.worker`` for the difference."""

    worker_class = OneAtATimeWorker
