"""``manage.py kafka_status``: the state of the Kafka layers, for a person or for monitoring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from channels.layers import channel_layers
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...config.settings import LayerConfig
from ...exceptions import KafkaLayerError
from ...kafka.admin import TopicAdmin, WorkLag
from ...kafka.specs import TopicState, differences, topic_specs
from ...layer import KafkaChannelLayer
from ..options import add_layer_option, notes, seconds, select, table

__all__ = ["Command"]

UNWELL_CODE = 3
"""Exit code when a layer has a problem; an error has 1, a wrong option 2."""


# The fields of a server's answer. "replaced" counts clients that stopped working; servers of
# version 0.1 leave it out. Servers without tracked channels leave out the last four.
_TOLD = (
    *("server", "channels", "groups", "users", "replaced"),
    *("recovered", "not_recovered", "behind", "recent_bytes"),
)


class Command(BaseCommand):
    """Shows topics, worker channels and servers, and makes a round trip through the broker."""

    help = (
        "Shows the topics, the backlog of worker channels and the running servers of every Kafka "
        "layer in CHANNEL_LAYERS, and checks a round trip through the broker. Exits with "
        f"{UNWELL_CODE} if a topic is missing or differs, or the round trip fails."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add_layer_option(parser)
        parser.add_argument(
            "--timeout",
            type=seconds,
            default=5.0,
            metavar="SECONDS",
            help="How long brokers may take to answer each request. Default: 5.",
        )
        parser.add_argument(
            "--wait",
            type=seconds,
            default=1.0,
            metavar="SECONDS",
            help="How long to wait for running servers to tell that they are there. Default: 1.",
        )
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="Print the result as JSON."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Examine each layer and print the result.

        Raises:
            CommandError: If settings or brokers refuse (code 1), or a layer has a problem (code 3).
        """
        layers, skipped = select(options["aliases"])
        reports = []
        for alias, config in layers.items():
            try:
                reports.append(_look(alias, config, options["timeout"], options["wait"]))
            except (ImproperlyConfigured, KafkaLayerError) as error:
                raise CommandError(f"Layer {alias!r}: {error}") from None
        if options["as_json"]:
            self.stdout.write(json.dumps([_as_json(report) for report in reports], indent=2))
        else:
            for line in notes(skipped, any_on_kafka=bool(reports)):
                self.stdout.write(line)
            for report in reports:
                self._print(report)
        unwell = [problem for report in reports for problem in report.problems]
        if unwell:
            raise CommandError("; ".join(unwell), returncode=UNWELL_CODE)

    def _print(self, report: _Report) -> None:
        self.stdout.write(
            self.style.MIGRATE_HEADING(f"Layer {report.alias!r} on {report.bootstrap_servers}")
        )
        self.stdout.write(
            "  Round trip: failed"
            if report.round_trip is None
            else f"  Round trip: {report.round_trip * 1000:.1f} ms"
        )
        self._print_table(
            ("TOPIC", "PARTITIONS", "REPLICAS"),
            [
                (topic.name, str(topic.partitions), str(topic.replication_factor))
                for topic in report.topics
            ],
        )
        self._print_table(
            ("WORKER CHANNEL'S TOPIC", "WAITING", "WORKERS"),
            [(lag.topic, str(lag.waiting), str(lag.members)) for lag in report.work],
        )
        self._print_table(
            tuple(name.upper() for name in _TOLD),
            [tuple(str(told.get(name, "-")) for name in _TOLD) for told in report.servers],
        )
        for problem in report.problems:
            self.stdout.write(self.style.WARNING(f"  {problem}"))

    def _print_table(self, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for line in table([heading, *rows]) if rows else ():
            self.stdout.write(f"  {line}")


@dataclass(frozen=True)
class _Report:
    """The state of one layer.

    Attributes:
        alias: The layer's alias.
        bootstrap_servers: Its brokers.
        topics: The topics that exist.
        work: The worker channels' topics, their backlogs and their workers.
        servers: The answers of the running servers, without this command's own.
        round_trip: Seconds; None if the record did not come back.
        problems: The problems, a sentence each.
    """

    alias: str
    bootstrap_servers: str
    topics: list[TopicState]
    work: list[WorkLag]
    servers: list[dict[str, Any]]
    round_trip: float | None
    problems: list[str] = field(default_factory=list)


def _look(alias: str, config: LayerConfig, timeout: float, wait: float) -> _Report:
    specs = topic_specs(config)
    with TopicAdmin(config, timeout) as admin:
        states = admin.inspect([spec.name for spec in specs])
        work = admin.work_lags(f"{config.prefix}-work.")
    problems = []
    for spec in specs:
        state = states.get(spec.name)
        if state is None:
            problems.append(f"topic {spec.name} is missing")
        else:
            problems += [f"topic {spec.name}: {each}" for each in differences(spec, state)]
    servers: list[dict[str, Any]] = []
    round_trip = None
    if len(states) == len(specs):
        layer = cast(KafkaChannelLayer, channel_layers.make_backend(alias))
        try:
            round_trip = layer.round_trip_sync(timeout)
            own = layer.stats().server
            servers = [told for told in layer.servers_sync(wait) if told.get("server") != own]
        except TimeoutError as error:
            problems.append(f"no round trip through the broker: {error}")
        finally:
            layer.close_sync()
    return _Report(
        alias, config.bootstrap_servers, list(states.values()), work, servers, round_trip, problems
    )


def _as_json(report: _Report) -> dict[str, Any]:
    return {
        **asdict(report),
        "topics": [
            {**asdict(topic), "config": topic.config and dict(topic.config)}
            for topic in report.topics
        ],
    }
