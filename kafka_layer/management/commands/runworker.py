"""Channels' ``runworker``, with a worker that loses no message when it stops."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from channels.layers import channel_layers, get_channel_layer
from channels.management.commands.runworker import Command as RunWorker
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from kafka_layer.exceptions import KafkaLayerError
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.management.probe import Address
from kafka_layer.worker import OneAtATimeWorker

__all__ = ["Command"]


class Command(RunWorker):  # type: ignore[misc, unused-ignore]
    """Channels' arguments, and a health probe; see ``kafka_layer.worker``."""

    worker_class: Any = OneAtATimeWorker

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        super().add_arguments(parser)
        parser.add_argument(
            "--health",
            type=_address,
            metavar="[HOST:]PORT",
            help="Answer health probes over HTTP: /live with 200 while the event loop runs, /ready "
            "with 200 while the channels are served and a broker answers, else 503. Without HOST "
            "on all addresses of this machine. Default: no probe.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Work until a signal says to stop.

        Raises:
            CommandError: If the settings, a channel's name or the brokers prevent it.
        """
        self.worker_class = functools.partial(self.worker_class, health=options["health"])
        try:
            _require_worker_channels(options["layer"], options["channels"])
            super().handle(*args, **options)
        except (ImproperlyConfigured, KafkaLayerError) as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            if options["health"] is None:
                raise
            raise CommandError(f"--health cannot be answered there: {error}.") from None


def _require_worker_channels(alias: str, channels: Sequence[str]) -> None:
    """Raise a ``CommandError`` for a name on which no worker can listen."""
    aliases = channel_layers.configs
    if aliases and alias not in aliases:
        raise CommandError(f"CHANNEL_LAYERS has no layer {alias!r}, but {', '.join(aliases)}.")
    layer = get_channel_layer(alias)
    if not isinstance(layer, KafkaChannelLayer):
        return
    for channel in channels:
        try:
            layer.require_worker_channel_name(channel)
        except (TypeError, ValueError) as error:
            raise CommandError(f"Cannot listen on {channel!r}: {error}") from None


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}.") from None
