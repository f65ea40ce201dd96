"""The tiers of the package: imports point down only, and one package alone knows Kafka."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import kafka_layer
from tests.support.sources import parsed, statements

PACKAGE = Path(kafka_layer.__file__).parent

# From the top down; a module imports from tiers below its own, and from none beside it. A new
# module needs a place here.
TIERS: list[set[str]] = [
    {
        "apps",
        "management.commands.kafka_console",
        "management.commands.kafka_setup_topics",
        "management.commands.kafka_status",
        "management.commands.runworker",
    },
    {"checks", "management.options"},
    {"admin", "health_check", "urls"},
    {"views"},
    {"dashboard.socket", "health"},
    {"dashboard.access"},
    {"management.installed", "management.console"},
    {"asgi", "consumers", "shortcuts", "templatetags.kafka_layer", "testing", "worker"},
    {"testing.cases"},
    {"testing.memory"},
    {"testing.streams"},
    {"testing.jobs", "testing.shared_log"},
    {"layer"},
    {"calls.health", "calls.sync"},
    {"calls.procedures"},
    {"calls.records"},
    {"calls.traced"},
    {"calls.current_server", "testing.embedded"},
    {"metrics", "tracing"},
    {"kafka.backplane", "kafka.validation"},
    {
        "kafka.assignment",
        "kafka.past",
        "kafka.stream_producers",
        "kafka.streams",
        "kafka.topic_ids",
    },
    {"kafka.topics"},
    {"kafka.admin", "kafka.reader", "kafka.producer", "kafka.acls", "kafka.worker_group.member"},
    {"kafka.producer_client", "kafka.worker_group.membership"},
    {"kafka.worker_group.stream_commits"},
    {"kafka.replacement", "kafka.worker_group.commits", "kafka.worker_group.evidence"},
    {"kafka.worker_group.client", "kafka.tail"},
    {"kafka.delivery_reports", "kafka.starts"},
    {"kafka.clients"},
    {"kafka.connection", "kafka.batching", "kafka.liveness"},
    {"kafka.unknown_partitions"},
    {"kafka.pending"},
    {"kafka.errors", "kafka.log", "kafka.properties", "kafka.specs", "kafka.tokens"},
    {"kafka.read_parts", "kafka.read_positions"},
    {"dashboard.watch"},
    {
        "dashboard.report",
        "history.feature",
        "jobs.feature",
        "recovery.feature",
        "streams.feature",
        "streams.producing",
        "websocket.session",
    },
    {"history.look_back", "history.of_streams"},
    {"server.traced_sending"},
    {"server.server"},
    {"server.closing", "server.refresh"},
    {"streams.stream"},
    {"streams.delivery"},
    {"streams.following"},
    {"streams.reading", "streams.unread"},
    {"server.router", "server.commands", "server.ordering", "server.upkeep", "server.process"},
    {"server.sending", "server.requests", "server.lifecycle", "server.identity", "server.feature"},
    {"server.round_trips"},
    {"kafka.worker_group.positions", "kafka.worker_group.recent"},
    {"recovery.opening"},
    {"recovery.channel"},
    {"recovery.mailbox", "recovery.progress"},
    {"recovery.stream_replay"},
    {"recovery.kept_stream", "recovery.log_replay"},
    {"recovery.read_through"},
    {"recovery.replay", "recovery.stream_log"},
    {"history.flushes", "history.question", "recovery.recent"},
    {"history.scan", "recovery.epochs", "recovery.tails", "websocket.frames"},
    {"server.full_mailboxes"},
    {"streams.interest", "streams.latest"},
    {"server.overflow"},
    {"jobs.stream_channel"},
    {"jobs.channel"},
    {"transport"},
    {"jobs.ack"},
    {"jobs.job"},
    {"delivery.registry"},
    {"delivery.membership"},
    {"server.expiry"},
    {"delivery.mailbox", "server.clock", "observe.counters"},
    {"delivery.backpressure"},
    {"delivery.wakeups"},
    {"observe.ages", "observe.dispatch", "observe.log", "observe.spans"},
    {"config.settings", "backplane", "observe.events"},
    {"config.topics", "config.streams"},
    {"config.keywords", "streams"},
    {"streams.addresses"},
    {"streams.template"},
    {"streams.payload"},
    {"streams.names"},
    {"streams.record", "streams.registry"},
    {"streams.codecs"},
    {"messages", "wire.codec", "wire.idempotency", "wire.position_token"},
    {
        "wire.encryption",
        "wire.headers",
        "wire.names",
        "wire.partitions",
        "wire.plain",
        "wire.places",
        "wire.record_block",
        "delivery.tickets",
        "kafka.worker_group.pacing",
    },
    {"config.threads", "wire.records"},
    {
        "transport_values",
        "wire.topics",
        "config.librdkafka",
        "config.realtime",
        "streams.rate",
        "streams.state",
        "management.probe",
        "config.timings",
        "exceptions",
        "signals",
        "stats",
    },
]
# Modules, and folders of them, that a process loads when its settings or a call ask for them.
ON_DEMAND = {
    *("calls.health", "calls.traced", "config.streams", "dashboard", "history", "jobs"),
    *("kafka.admin", "kafka.past", "kafka.specs", "kafka.stream_producers", "kafka.streams"),
    *("kafka.tail", "kafka.tokens", "kafka.topic_ids", "kafka.worker_group", "metrics"),
    *("observe.ages", "observe.spans", "recovery", "server.traced_sending"),
    *("stats", "streams", "testing"),
    *("tracing", "transport", "websocket", "wire.position_token"),
}
RANK = {module: rank for rank, tier in enumerate(TIERS) for module in tier}


@cache
def modules() -> list[str]:
    names = [
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
    ]
    return [name.removesuffix(".__init__") for name in names if name != "__init__"]


@cache
def imports(module: str) -> set[str]:
    """Return the absolute names that a module imports, in whatever way and place."""
    folder = PACKAGE.joinpath(*module.split("."))
    package = ["kafka_layer", *module.split(".")]
    if folder.is_dir():
        path = folder / "__init__.py"
    else:
        path, package = folder.with_suffix(".py"), package[:-1]
    found: set[str] = set()
    for node in statements(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found


def imported_modules(module: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    names = {name.removeprefix("kafka_layer.") for name in imports(module)}
    return names & set(modules())


def placed_modules() -> set[str]:
    """Return the modules that import anything of this package."""
    return {name for name in modules() if imported_modules(name) or name in RANK}


def test_every_module_has_a_place() -> None:
    assert not placed_modules() - set(RANK), "give the new module its place in TIERS"


def test_imports_point_down() -> None:
    upwards = [
        f"{module} imports {name}, not below it"
        for module in RANK
        for name in sorted(imported_modules(module) & set(RANK))
        if RANK[name] <= RANK[module]
    ]
    assert not upwards


def importers_of(package: str) -> set[str]:
    """Return the modules that import a package of others."""
    return {
        module
        for module in modules()
        if any(name.split(".")[0] == package for name in imports(module))
    }


def test_kafka_is_known_in_one_package_alone() -> None:
    known = importers_of("confluent_kafka")
    assert known
    # A schema registry is no broker; confluent-kafka has the clients of both.
    others = {"testing.embedded", "streams.registry"}
    assert {each for each in known if not each.startswith("kafka.")} <= others


def test_time_is_read_off_one_clock() -> None:
    """Two would contradict each other where a test freezes the time."""
    assert importers_of("time") == {"config.realtime"}


def loaded_for_nothing() -> set[str]:
    """Return what this process has loaded of the modules of ``ON_DEMAND``."""
    unknown = [each for each in ON_DEMAND if not any(_is_in(name, each) for name in modules())]
    assert not unknown, "no such module"
    prefix = "kafka_layer."
    loaded = {name.removeprefix(prefix) for name in sys.modules if name.startswith(prefix)}
    return {name for name in loaded if any(_is_in(name, each) for each in ON_DEMAND)}


def _is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loaded", "not_needed"),
    [
        ("kafka_layer.layer", "'confluent_kafka' in sys.modules"),
        # What an installed app loads in each process.
        ("kafka_layer.checks", "tests.test_tiers.loaded_for_nothing()"),
    ],
)
def test_what_is_not_needed_is_not_loaded(loaded: str, not_needed: str) -> None:
    """See ``tests.support.programs.plain_use`` for a process that sends and receives."""
    code = f"import sys, {loaded}, tests.test_tiers; sys.exit({not_needed} or 0)"
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True)
