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
from ...kafka.admin import GroupLag, TopicAdmin, WorkLag
from ...kafka.specs import TopicState, differences, topic_specs
from ...layer import KafkaChannelLayer
from ..options import add_layer_option, add_timeout_option, notes, seconds, select, table

__all__ = ["Command"]

UNWELL_CODE = 3
"""Exit code when a layer has a problem; an error has 1, a wrong option 2."""


# The fields of a server's answer. "replaced" counts clients that stopped working; servers of the
# first commits of 0.1 leave it out. Servers without tracked channels leave out the last four.
_TOLD = (
    *("server", "channels", "groups", "users", "replaced"),
    *("recovered", "not_recovered", "behind", "recent_bytes"),
)


_TOLD_OF_STREAMS = (
    *("state", "topics", "partitions", "lag"),
    *("records_per_second", "delivered", "errors"),
)

# States in which a stream is not read though there are channels.
_UNWELL = frozenset({"waiting", "held up", "stopped"})


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
        add_timeout_option(parser, 5.0)
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
            ("STREAM'S WORKER CHANNEL", "TOPIC", "WAITING", "WORKERS"),
            [
                (
                    lag.group,
                    lag.topic,
                    "not begun" if lag.waiting is None else str(lag.waiting),
                    str(lag.members),
                )
                for lag in report.stream_work
            ],
        )
        self._print_table(
            tuple(name.upper() for name in _TOLD),
            [tuple(str(told.get(name, "-")) for name in _TOLD) for told in report.servers],
        )
        self._print_table(
            ("STREAM", "SERVER", *(name.replace("_", " ").upper() for name in _TOLD_OF_STREAMS)),
            [
                (stream, server, *(_cell(told.get(name)) for name in _TOLD_OF_STREAMS))
                for stream, server, told in _streams(report.servers)
            ],
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
        stream_work: The worker channels of streams, their backlogs and their workers.
        servers: The answers of the running servers, without this command's own.
        round_trip: Seconds; None if the record did not come back.
        problems: The problems, a sentence each.
    """

    alias: str
    bootstrap_servers: str
    topics: list[TopicState]
    work: list[WorkLag]
    stream_work: list[GroupLag]
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
    stream_work = _stream_work(config, timeout, problems)
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
    problems += [
        f"stream {stream} is {told['state']} on {server} ({told.get('detail')})"
        for stream, server, told in _streams(servers)
        if told.get("state") in _UNWELL
    ]
    return _Report(
        alias,
        config.bootstrap_servers,
        list(states.values()),
        work,
        stream_work,
        servers,
        round_trip,
        problems,
    )


def _streams(servers: Sequence[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the figures of each stream on each server, by the name of the stream."""
    found = [
        (stream, str(told.get("server")), figures)
        for told in servers
        for stream, figures in told.get("streams", {}).items()
    ]
    return sorted(found, key=lambda each: each[:2])


def _cell(told: object) -> str:
    if isinstance(told, dict):
        return ", ".join(f"{cause} {count}" for cause, count in sorted(told.items())) or "-"
    return "-" if told is None else str(told)


def _stream_work(config: LayerConfig, timeout: float, problems: list[str]) -> list[GroupLag]:
    """Return the backlogs of the worker channels of streams; add to the problems."""
    found = []
    for name, stream in config.streams.items():
        if stream.worker_channel is None or stream.topic is None:
            continue
        try:
            with TopicAdmin(config.for_stream(stream), timeout) as admin:
                lag = admin.group_lag(stream.worker_channel, stream.topic)
        except KafkaLayerError as error:
            # It may be another cluster: the layer itself may be well.
            problems.append(f"stream {name!r}: {error}")
            continue
        if lag is None:
            problems.append(f"stream {name!r}: topic {stream.topic} is missing")
        else:
            found.append(lag)
    return found


def _as_json(report: _Report) -> dict[str, Any]:
    return {
        **asdict(report),
        "topics": [
            {**asdict(topic), "config": topic.config and dict(topic.config)}
            for topic in report.topics
        ],
    }
