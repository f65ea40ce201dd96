"""Options and tables that the management commands share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from ..config.settings import LayerConfig
from . import installed

__all__ = [
    "Skipped",
    "add_layer_option",
    "add_timeout_option",
    "notes",
    "seconds",
    "select",
    "table",
]


@dataclass(frozen=True)
class Skipped:
    """A layer that has no topics in Kafka."""

    alias: str
    backend: str
    reason: str


def add_layer_option(parser: CommandParser) -> None:
    """Declare the option that chooses layers; its value is for ``select``."""
    parser.add_argument(
        "--layer",
        action="append",
        dest="aliases",
        metavar="ALIAS",
        help="Only this alias of CHANNEL_LAYERS; may be repeated. Default: all.",
    )


def add_timeout_option(parser: CommandParser, default: float) -> None:
    """Declare the option that limits the time of a request, in seconds."""
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=default,
        metavar="SECONDS",
        help=f"How long brokers may take to answer each request. Default: {default:g}.",
    )


def seconds(text: str) -> float:
    """Read an option that is a time-out, in seconds."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.1 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to 3600")
    return number


def select(aliases: Sequence[str] | None) -> tuple[dict[str, LayerConfig], list[Skipped]]:
    """Return the settings of the chosen layers, and notes on those without topics.

    Args:
        aliases: The chosen layers; None or empty for all.

    Raises:
        CommandError: If an alias is unknown, or a layer's settings cannot work.
    """
    try:
        known = installed.channel_layers()
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from None
    for alias in aliases or ():
        if alias not in known:
            raise CommandError(
                f"There is no layer {alias!r} in CHANNEL_LAYERS; "
                f"it has {', '.join(map(repr, known)) or 'none'}."
            )
    layers, skipped = {}, []
    for alias in dict.fromkeys(aliases or known):
        try:
            backend = installed.backend_of(alias)
            if installed.is_on_kafka(backend):
                layers[alias] = installed.config_of(alias, backend)
                continue
        except ImproperlyConfigured as error:
            raise CommandError(f"Layer {alias!r}: {error}") from None
        reason = (
            "it keeps its messages in memory"
            if installed.is_kafka_layer(backend)
            else f"its backend is {known[alias]['BACKEND']}, which is not on Kafka"
        )
        skipped.append(Skipped(alias, known[alias]["BACKEND"], reason))
    return layers, skipped


def notes(skipped: Iterable[Skipped], *, any_on_kafka: bool) -> Iterator[str]:
    """Yield a line for each layer without topics, and one if there is no other layer."""
    for note in skipped:
        yield f"Layer {note.alias!r} is skipped: {note.reason}."
    if not any_on_kafka:
        yield (
            "No layer in CHANNEL_LAYERS keeps its messages in Kafka "
            f'(BACKEND "{installed.BACKEND}"): there is nothing to do.'
        )


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
