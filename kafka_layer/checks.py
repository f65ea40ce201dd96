"""Django's system checks: settings that cannot work, or that are hardly meant.

They contact no broker; ``manage.py kafka_setup_topics --check`` does.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from urllib.parse import urlsplit

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004
from django.core.exceptions import ImproperlyConfigured

from .config.settings import LayerConfig
from .kafka.validation import Finding, examine_clients
from .layer import KafkaChannelLayer
from .management.installed import (
    BACKEND,
    backend_of,
    channel_layers,
    config_of,
    is_kafka_layer,
    is_on_kafka,
)
from .wire.topics import BROADCAST_TOPICS

__all__ = ["TAG", "check_apps", "check_cleartext_credentials", "check_prefixes", "check_settings"]

TAG = "kafka_layer"
"""Runs these checks alone: ``manage.py check --tag kafka_layer``."""


@register(TAG)
def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: object
) -> list[CheckMessage]:
    """Check every Kafka layer in ``CHANNEL_LAYERS``.

    Args:
        app_configs: Ignored; the settings belong to no app.
        kwargs: Ignored.

    Returns:
        The findings; none where no layer has this package's backend.
    """
    found: list[CheckMessage] = []
    configs: dict[str, LayerConfig] = {}
    for alias, backend in _backends(found):
        config = _config(alias, backend, found)
        if config is not None:
            found += _all_clients(alias, config) if is_on_kafka(backend) else []
            found += _risky_topics(alias, config)
            found += _short_retention(alias, config)
            found += _metrics_of_one(alias, config)
            configs[alias] = config
    found += _shared_prefixes(configs)
    return found


@register(TAG)
def check_apps(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: object
) -> list[CheckMessage]:
    """Check that ``runworker`` is this package's, if there is a layer with worker channels.

    Args:
        app_configs: Ignored; the order of all apps counts.
        kwargs: Ignored.

    Returns:
        A warning if ``channels`` stands before ``kafka_layer`` in INSTALLED_APPS.
    """
    order = [app.name for app in apps.get_app_configs() if app.name in ("channels", "kafka_layer")]
    if order != ["channels", "kafka_layer"] or not any(_backends([])):
        return []
    return [
        Warning(
            "INSTALLED_APPS has channels before kafka_layer, so runworker is that of Channels: it "
            "takes jobs as fast as they come, and loses those in its memory when it ends.",
            hint='Put "kafka_layer" before "channels" in INSTALLED_APPS.',
            id="kafka_layer.W005",
        )
    ]


@register(TAG, deploy=True)
def check_cleartext_credentials(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: object
) -> list[CheckMessage]:
    """Check that no password or token travels unencrypted (``manage.py check --deploy``).

    Args:
        app_configs: Ignored; the settings belong to no app.
        kwargs: Ignored.

    Returns:
        A warning for each layer that sends one to another host in clear.
    """
    return [
        warning
        for alias, backend in _backends([])
        if (config := _config(alias, backend, [])) is not None
        for warning in _cleartext(_where(alias), config)
    ]


@register(TAG, deploy=True)
def check_prefixes(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: object
) -> list[CheckMessage]:
    """Check that no layer shares its topics with another project (``manage.py check --deploy``).

    Args:
        app_configs: Ignored; the settings belong to no app.
        kwargs: Ignored.

    Returns:
        A warning for each layer on brokers of other hosts whose prefix is the default.
    """
    return [
        Warning(
            f"prefix is {config.prefix!r}, the default, and the brokers "
            f"({config.bootstrap_servers}) may serve other projects: two with one prefix get each "
            "other's messages.",
            hint="Set prefix to a name of this project and deployment, such as 'shop-staging'.",
            obj=_where(alias),
            id="kafka_layer.W006",
        )
        for alias, backend in _backends([])
        if is_on_kafka(backend)
        and (config := _config(alias, backend, [])) is not None
        and config.prefix == LayerConfig.prefix
        and not _is_local(config.bootstrap_servers)
    ]


def _where(alias: str) -> str:
    return f"CHANNEL_LAYERS[{alias!r}]"


def _backends(found: list[CheckMessage]) -> Iterator[tuple[str, type[KafkaChannelLayer]]]:
    """Yield the aliases and classes of this package's layers; adds to ``found`` what is wrong."""
    try:
        aliases = list(channel_layers())
    except ImproperlyConfigured as error:
        found.append(Error(str(error), hint=_BACKEND_HINT, id="kafka_layer.E004"))
        return
    for alias in aliases:
        try:
            backend = backend_of(alias)
        except ImproperlyConfigured as error:
            found.append(
                Error(str(error), hint=_BACKEND_HINT, obj=_where(alias), id="kafka_layer.E004")
            )
            continue
        if is_kafka_layer(backend):
            yield alias, backend


_KEYWORDS_HINT = (
    "All keywords, with their values and defaults: "
    "python -m pydoc kafka_layer.config.settings.LayerConfig"
)
_BACKEND_HINT = f'The backend of this package is "{BACKEND}".'


_EXTRAS = {
    "cryptography is not installed": "encryption",
    "kafka-layer[schema-registry]": "schema-registry",
    "kafka-layer[prometheus]": "prometheus",
    "kafka-layer[opentelemetry]": "opentelemetry",
}
"""By a part of the problem's text: the extra that is missing."""


def _config(
    alias: str, backend: type[KafkaChannelLayer], found: list[CheckMessage]
) -> LayerConfig | None:
    """Return the settings of a layer, or None; adds to ``found`` what is wrong with them."""
    try:
        return config_of(alias, backend)
    except ImproperlyConfigured as error:
        problem = str(error)
    extra = next((extra for sign, extra in _EXTRAS.items() if sign in problem), None)
    if extra is not None:
        hint, number = f"Run: pip install 'kafka-layer[{extra}]'", "E002"
    else:
        hint, number = _KEYWORDS_HINT, "E001"
    found.append(Error(problem, hint=hint, obj=_where(alias), id=f"kafka_layer.{number}"))
    return None


def _all_clients(alias: str, config: LayerConfig) -> Iterator[CheckMessage]:
    yield from _clients(_where(alias), config)
    for name, stream in config.streams.items():
        own = config.for_stream(stream)
        if own is not config:
            yield from _clients(f"{_where(alias)}, streams[{name!r}]", own)


def _clients(where: str, config: LayerConfig) -> Iterator[CheckMessage]:
    findings: dict[tuple[bool, str], list[Finding]] = {}
    for each in examine_clients(config):
        findings.setdefault((each.refused, each.text.rstrip(".")), []).append(each)
    for (refused, text), same in findings.items():
        clients = ", ".join(each.client for each in same)
        keywords = {each.keyword for each in same}
        # Only client_config reaches several kinds of client.
        mend = "client_config" if len(keywords) > 1 else f"client_config or {keywords.pop()}"
        if refused:
            yield Error(
                f"librdkafka refuses the configuration of the {clients}: {text}.",
                hint=f"Correct {mend}.",
                obj=where,
                id="kafka_layer.E003",
            )
        else:
            yield Warning(
                f"librdkafka warns about the configuration of the {clients}: {text}.",
                hint=f"Correct {mend}; what concerns one kind of client belongs into "
                "producer_config, consumer_config or admin_config.",
                obj=where,
                id="kafka_layer.W003",
            )


def _risky_topics(alias: str, config: LayerConfig) -> Iterator[CheckMessage]:
    every = {f"topics[{topic.value!r}]": settings for topic, settings in config.topics.items()}
    for _, worker in config.worker_channels:
        every[f"worker_channels[{worker.pattern!r}]"] = worker.topic
    for name, (safe, problem, hint) in _RISKS.items():
        risky: dict[str, list[str]] = {}
        for topic, settings in every.items():
            value = settings.config.get(name, "the broker's default")
            if not safe(value):
                risky.setdefault(value, []).append(topic)
        for value, topics in risky.items():
            where = ", ".join(topics)
            yield Warning(
                f"{name}={value} ({where}) {problem}.",
                hint=hint,
                obj=_where(alias),
                id="kafka_layer.W001",
            )


def _short_retention(alias: str, config: LayerConfig) -> Iterator[CheckMessage]:
    needed = config.recovery_window + config.expiry
    short = {
        topic.value: retention
        for topic in BROADCAST_TOPICS
        if (retention := config.topics[topic].config.get("retention.ms")) is not None
        and 0 <= int(retention) < needed * 1000
    }
    if short:
        where = ", ".join(f"{retention} for {topic}" for topic, retention in short.items())
        yield Warning(
            f"retention.ms is {where}, shorter than recovery_window and expiry ({needed:g} s): "
            "what comes back late is not recovered.",
            hint="Raise retention.ms, or lower recovery_window.",
            obj=_where(alias),
            id="kafka_layer.W007",
        )


def _metrics_of_one(alias: str, config: LayerConfig) -> Iterator[CheckMessage]:
    if config.metrics and "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        yield Warning(
            "metrics is True, and PROMETHEUS_MULTIPROC_DIR is set: several processes answer at one "
            "address, each with the layer's figures of its own, so that the counters jump.",
            hint="Give each process an address of its own: see docs/operations.md, 'Several "
            "processes'; or silence this warning where there is one process.",
            obj=_where(alias),
            id="kafka_layer.W008",
        )


_RISKS: Mapping[str, tuple[Callable[[str], bool], str, str]] = {
    "message.timestamp.type": (
        lambda value: value == "LogAppendTime",
        "lets the clocks of all senders decide when a message expires and when it is deleted",
        "Remove it: with LogAppendTime one clock decides, the broker's.",
    ),
    "retention.ms": (
        lambda value: value != "-1",
        "keeps every message for ever, and none is read after it expired",
        "Remove it, or set some minutes; never less than expiry.",
    ),
    "retention.bytes": (
        lambda value: value in ("-1", "the broker's default"),
        "lets the broker delete messages that have not expired when many arrive",
        "Remove it: retention.ms bounds the size as well.",
    ),
}
"""By topic config: which values are safe, what the others do, and the fix."""


def _shared_prefixes(configs: Mapping[str, LayerConfig]) -> Iterator[CheckMessage]:
    for (first, one), (second, other) in combinations(configs.items(), 2):
        servers = set(one.bootstrap_servers.split(",")) & set(other.bootstrap_servers.split(","))
        if one.prefix == other.prefix and servers:
            yield Warning(
                f"It uses the same topics as {_where(first)}: prefix {one.prefix!r} on "
                f"{', '.join(sorted(servers))}. Each gets the other's group, user and all "
                "messages.",
                hint="Give each layer a prefix of its own, or silence this warning where they "
                "are meant to be one.",
                obj=_where(second),
                id="kafka_layer.W002",
            )


def _cleartext(where: str, config: LayerConfig) -> Iterator[CheckMessage]:
    clients = {where: config}
    for name, stream in config.streams.items():
        at = f"{where}, streams[{name!r}]"
        own = config.for_stream(stream)
        if own is not config:
            clients[at] = own
        registry = stream.schema_registry or {}
        url = urlsplit(str(registry.get("url", "")))
        if (
            url.scheme == "http"
            and (url.username or any("auth" in prop for prop in registry))
            and not _is_loopback(url.hostname or "")
        ):
            yield Warning(
                f"The credentials of the schema registry go to {url.hostname} in clear.",
                hint="Set an url of schema_registry that begins with https.",
                obj=at,
                id="kafka_layer.W004",
            )
    for at, each in clients.items():
        mechanism = _cleartext_mechanism(each)
        if mechanism and not _is_local(each.bootstrap_servers):
            yield Warning(
                f"sasl.mechanism={mechanism} with security.protocol=SASL_PLAINTEXT sends the "
                f"credentials to {each.bootstrap_servers} in clear.",
                hint="Set security.protocol to SASL_SSL in client_config, or use SCRAM-SHA-512.",
                obj=at,
                id="kafka_layer.W004",
            )


def _cleartext_mechanism(config: LayerConfig) -> str:
    for own in (config.producer_config, config.consumer_config, config.admin_config):
        properties = {**config.client_config, **own}
        mechanism = str(properties.get("sasl.mechanism", properties.get("sasl.mechanisms", "")))
        protocol = str(properties.get("security.protocol", ""))
        if protocol.lower() == "sasl_plaintext" and mechanism in ("PLAIN", "OAUTHBEARER"):
            return mechanism
    return ""


def _is_local(servers: str) -> bool:
    return all(_is_loopback(server.rpartition(":")[0]) for server in servers.split(","))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
