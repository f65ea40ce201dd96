"""``manage.py kafka_setup_topics``: creates the Kafka layers' topics, and reports differences."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from channels.layers import BaseChannelLayer
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...config.settings import LayerConfig
from ...exceptions import KafkaLayerError, TopicError
from ...kafka.admin import TopicAdmin
from ...kafka.specs import (
    Difference,
    TopicSpec,
    TopicState,
    differences,
    topic_spec,
    topic_specs,
)
from ...wire.names import CHANNEL_NAME
from ...wire.topics import WorkTopic
from ..options import Skipped, add_layer_option, add_timeout_option, notes, select, table

__all__ = ["Command"]

DRIFT_CODE = 3
"""Exit code of ``--check`` when topics are missing or differ; an error has 1, a wrong option 2."""

# Kinds of differences other than topic configs.
_NOT_CONFIGS = frozenset({"partitions", "replication_factor", "leaders"})
# Seconds until all brokers know a topic that one of them has created.
_SPREAD = 2.0


class Command(BaseCommand):
    """Creates missing topics; changes those that exist only where an option asks for it."""

    help = (
        "Creates the topics of every Kafka layer in CHANNEL_LAYERS and reports existing ones that "
        "differ from the settings. Running it again changes nothing."
    )
    # The command reports bad settings itself, in one sentence.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add_layer_option(parser)
        parser.add_argument(
            "--worker-channel",
            action="append",
            default=[],
            type=_worker_channel,
            dest="worker_channels",
            metavar="NAME",
            help="Also the topic of this worker channel; may be repeated. Channels that the "
            "setting worker_channels names in full have theirs anyway.",
        )
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument(
            "--dry-run",
            action="store_true",
            help="Change nothing; have the brokers validate what would be done, and print it.",
        )
        mode.add_argument(
            "--check",
            action="store_true",
            help="Change nothing; exit with "
            f"{DRIFT_CODE} if a topic is missing or differs from the settings.",
        )
        parser.add_argument(
            "--increase-partitions",
            action="store_true",
            help="Add partitions to topics that have fewer than the settings want. The order of "
            "messages may break once while running servers notice.",
        )
        parser.add_argument(
            "--alter-configs",
            action="store_true",
            help="Set topic configs that differ to what the settings want; no other config "
            "is touched.",
        )
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="Print the result as JSON."
        )
        add_timeout_option(parser, 10.0)

    def handle(self, *args: Any, **options: Any) -> None:
        """Carry out the options for each layer, and print the result.

        Raises:
            CommandError: If settings or brokers refuse (code 1), or ``--check`` finds that topics
                are missing or differ (code 3).
        """
        wishes = _Wishes(
            check=options["check"],
            dry_run=options["dry_run"],
            increase_partitions=options["increase_partitions"],
            alter_configs=options["alter_configs"],
            worker_channels=options["worker_channels"],
            timeout=options["timeout"],
        )
        if wishes.check and (wishes.increase_partitions or wishes.alter_configs):
            raise CommandError(
                "--check changes nothing: leave out --increase-partitions and --alter-configs, "
                "or use --dry-run in its place."
            )
        layers, skipped = select(options["aliases"])
        reports = []
        for alias, config in layers.items():
            try:
                reports.append(_set_up(alias, config, wishes))
            except (ImproperlyConfigured, KafkaLayerError) as error:
                raise CommandError(f"Layer {alias!r}: {error}") from None
        if options["as_json"]:
            self.stdout.write(json.dumps(_as_json(reports, skipped, wishes), indent=2))
        else:
            self._print(reports, skipped, wishes)
        if wishes.check and not all(row.as_wanted for report in reports for row in report.rows):
            raise CommandError(_drift(reports, wishes), returncode=DRIFT_CODE)

    def _print(
        self, reports: Sequence[_Report], skipped: Iterable[Skipped], wishes: _Wishes
    ) -> None:
        for line in notes(skipped, any_on_kafka=bool(reports)):
            self.stdout.write(line)
        for report in reports:
            self._print_report(report, wishes)

    def _print_report(self, report: _Report, wishes: _Wishes) -> None:
        self.stdout.write(
            self.style.MIGRATE_HEADING(f"Layer {report.alias!r} on {report.bootstrap_servers}")
        )
        lines = table(
            [
                ("TOPIC", "PARTITIONS", "REPLICAS", "STATUS"),
                *(
                    (row.topic, _text(row.partitions), _text(row.replication_factor), row.status)
                    for row in report.rows
                ),
            ]
        )
        self.stdout.write(f"  {next(lines)}")
        for row, line in zip(report.rows, lines, strict=True):
            self.stdout.write(f"  {line}")
            for change in row.changes:
                self.stdout.write(f"    {'would set' if wishes.dry_run else 'set'} {change}")
            for difference in row.differences:
                self.stdout.write(self.style.WARNING(f"    {difference}"))
        for note in _notes(report.rows, wishes):
            self.stdout.write(self.style.WARNING(f"  {note}"))


@dataclass(frozen=True)
class _Wishes:
    """The options of one run."""

    check: bool
    dry_run: bool
    increase_partitions: bool
    alter_configs: bool
    worker_channels: Sequence[str]
    timeout: float


@dataclass(frozen=True)
class _Row:
    """The result for one topic.

    Attributes:
        topic: Kafka's name of the topic.
        status: ``as wanted``, ``created``, ``changed``, ``differs`` or ``missing``; in a dry run
            ``to create`` or ``to change``.
        partitions: Number of partitions now; None if the topic is missing.
        replication_factor: Copies of each partition now; None if the topic is missing.
        changes: The changes that were made, or would be in a dry run.
        differences: The differences from the settings that remain, or would in a dry run.
        configs_unknown: Why the configs could not be compared; empty if they were.
    """

    topic: str
    status: str
    partitions: int | None
    replication_factor: int | None
    changes: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    configs_unknown: str = ""

    @property
    def as_wanted(self) -> bool:
        return self.status in ("as wanted", "created", "changed") and not self.differences


@dataclass(frozen=True)
class _Report:
    """The results for the topics of one layer."""

    alias: str
    bootstrap_servers: str
    prefix: str
    rows: list[_Row]


class _Names(BaseChannelLayer):  # type: ignore[misc, unused-ignore]
    """Checks names as the layer does."""

    channel_name_regex = CHANNEL_NAME


def _worker_channel(name: str) -> str:
    try:
        _Names().require_valid_channel_name(name)
    except TypeError as error:
        raise argparse.ArgumentTypeError(f"{name!r}: {error}") from None
    if "!" in name:
        raise argparse.ArgumentTypeError(
            f"{name!r} is a channel of one process, because of its '!'; it needs no topic"
        )
    return name


def _set_up(alias: str, config: LayerConfig, wishes: _Wishes) -> _Report:
    specs = {spec.name: spec for spec in topic_specs(config)}
    for channel in wishes.worker_channels:
        stream = config.stream_of_worker_channel(channel)
        if stream is not None:
            raise TopicError(
                f"Worker channel {channel!r} gets the records of stream {stream.name!r}; its topic "
                f"{stream.topic} is not the layer's, and this command leaves it alone."
            )
        spec = topic_spec(config, WorkTopic(channel))
        specs[spec.name] = spec
    return _Report(
        alias, config.bootstrap_servers, config.prefix, _rows(config, [*specs.values()], wishes)
    )


def _rows(config: LayerConfig, specs: Sequence[TopicSpec], wishes: _Wishes) -> list[_Row]:
    with TopicAdmin(config, wishes.timeout) as admin:
        names = [spec.name for spec in specs]
        # A check just after the creation may reach a broker that does not know the topics yet.
        spread = _SPREAD if wishes.check else 0.0
        before = admin.inspect_patiently(names, min(spread, wishes.timeout))
        plan = [] if wishes.check else _plan(specs, before, wishes)
        after = {**before, **_carry_out(admin, plan, wishes)}
    planned = {step.spec.name: step for step in plan}
    return [_row(spec, after.get(spec.name), planned.get(spec.name), wishes) for spec in specs]


@dataclass(frozen=True)
class _Step:
    """The change of one topic.

    Attributes:
        spec: The topic as the settings want it.
        state: The topic as it is; None to create it.
        partitions: Number to which the partitions are raised, or None.
        config: Topic configs to set.
    """

    spec: TopicSpec
    state: TopicState | None
    partitions: int | None = None
    config: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> TopicSpec:
        """The topic as the brokers show it after the step."""
        if self.state is None:
            return replace(self.spec, replication_factor=-1)
        return TopicSpec(self.spec.name, self.partitions or 1, -1, self.config)

    def mends(self, difference: Difference) -> bool:
        """Whether the step removes a difference."""
        return difference.what in self.config or (
            difference.what == "partitions" and self.partitions is not None
        )

    @property
    def changes(self) -> list[str]:
        """The changes to an existing topic, as text."""
        if self.state is None:
            return []
        changes = []
        if self.partitions:
            changes.append(f"partitions {self.state.partitions} -> {self.partitions}")
        found = self.state.config or {}
        changes += [f"{name} {found.get(name)} -> {value}" for name, value in self.config.items()]
        return changes


def _plan(
    specs: Sequence[TopicSpec], states: dict[str, TopicState], wishes: _Wishes
) -> list[_Step]:
    return [step for spec in specs if (step := _step(spec, states.get(spec.name), wishes))]


def _step(spec: TopicSpec, state: TopicState | None, wishes: _Wishes) -> _Step | None:
    if state is None:
        return _Step(spec, None)
    partitions, config = None, {}
    for difference in differences(spec, state):
        if difference.what == "partitions" and wishes.increase_partitions:
            partitions = spec.partitions
        elif difference.what in spec.config and wishes.alter_configs:
            config[difference.what] = difference.wanted
    return _Step(spec, state, partitions, config) if partitions or config else None


def _carry_out(admin: TopicAdmin, plan: Sequence[_Step], wishes: _Wishes) -> dict[str, TopicState]:
    """Carry out the plan; return the changed topics as they are then."""
    dry_run = wishes.dry_run
    admin.create([step.spec for step in plan if step.state is None], dry_run=dry_run)
    admin.add_partitions(
        {step.spec.name: step.partitions for step in plan if step.partitions}, dry_run=dry_run
    )
    admin.alter_configs(
        {step.spec.name: step.config for step in plan if step.config}, dry_run=dry_run
    )
    return {} if dry_run else admin.wait_until_visible([step.done for step in plan])


def _row(spec: TopicSpec, state: TopicState | None, step: _Step | None, wishes: _Wishes) -> _Row:
    if state is None:
        return _Row(spec.name, "to create" if step else "missing", None, None)
    left = differences(spec, state)
    if step is None:
        status = "differs" if left else "as wanted"
    elif wishes.dry_run:
        status = "to change"
        left = [each for each in left if not step.mends(each)]
    else:
        status = "created" if step.state is None else "changed"
    return _Row(
        spec.name,
        status,
        state.partitions,
        state.replication_factor,
        step.changes if step else [],
        left,
        state.untold,
    )


def _notes(rows: Sequence[_Row], wishes: _Wishes) -> Iterator[str]:
    kinds = {difference.what for row in rows for difference in row.differences}
    if "partitions" in kinds:
        yield "To add the missing partitions: --increase-partitions."
    if "replication_factor" in kinds:
        yield (
            "A replication factor changes only when partitions are reassigned: use Kafka's "
            "kafka-reassign-partitions, or correct the settings."
        )
    if "leaders" in kinds:
        yield "Partitions without a leader cannot be used: look after the brokers that hold them."
    if kinds - _NOT_CONFIGS:
        yield "To set the differing configs: --alter-configs."
    for reason in dict.fromkeys(row.configs_unknown for row in rows if row.configs_unknown):
        count = sum(row.configs_unknown == reason for row in rows)
        yield f"The configs of {_topics(count)} could not be compared: {reason}."
    if wishes.dry_run:
        yield "Nothing was changed (--dry-run)."


def _drift(reports: Iterable[_Report], wishes: _Wishes) -> str:
    rows = [row for report in reports for row in report.rows]
    missing = sum(row.status == "missing" for row in rows)
    differing = sum(bool(row.differences) for row in rows)
    found = [
        *([f"{_topics(missing)} missing"] if missing else []),
        *([f"{_topics(differing)} not as the settings want"] if differing else []),
    ]
    kinds = {difference.what for row in rows for difference in row.differences}
    options = [
        *(["--increase-partitions"] if "partitions" in kinds else []),
        *(["--alter-configs"] if kinds - _NOT_CONFIGS else []),
    ]
    text = f"{', '.join(found)}."
    if not missing and not options:
        # No option of this command helps; the notes say what does.
        return text
    channels = [f"--worker-channel {name}" for name in wishes.worker_channels]
    return f"{text} Run '{' '.join(['manage.py kafka_setup_topics', *channels, *options])}'."


def _as_json(
    reports: Sequence[_Report], skipped: Sequence[Skipped], wishes: _Wishes
) -> dict[str, Any]:
    return {
        "dry_run": wishes.dry_run,
        "changed": any(
            row.status in ("created", "changed") for report in reports for row in report.rows
        ),
        "as_wanted": all(row.as_wanted for report in reports for row in report.rows),
        "layers": [asdict(report) for report in reports],
        "skipped": [asdict(each) for each in skipped],
    }


def _topics(count: int) -> str:
    return "1 topic" if count == 1 else f"{count} topics"


def _text(number: int | None) -> str:
    return "-" if number is None else str(number)
