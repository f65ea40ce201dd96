"""``kafka_setup_topics`` on a real broker, on one that refuses, and on the embedded one."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from django.core.management import CommandError, call_command

from kafka_layer.config.settings import LayerConfig
from kafka_layer.kafka.admin import TopicAdmin
from kafka_layer.kafka.specs import (
    Difference,
    TopicSpec,
    TopicState,
    differences,
    topic_specs,
)
from kafka_layer.testing.embedded import EmbeddedBroker
from kafka_layer.wire.topics import Topic
from tests.support.secure import SecureBroker
from tests.support.tables import for_each
from tests.support.waiting import PATIENCE, wait_until

BACKEND = "kafka_layer.layer.KafkaChannelLayer"
NAMES = [topic.value for topic in Topic]

Run = Callable[..., str]


def layer(servers: str, prefix: str, **config: Any) -> dict[str, Any]:
    return {
        "BACKEND": BACKEND,
        "CONFIG": {
            "bootstrap_servers": servers,
            "prefix": prefix,
            "default_partitions": 2,
            **config,
        },
    }


def run(*options: str) -> str:
    """Run the command and return what it printed."""
    out = io.StringIO()
    call_command("kafka_setup_topics", *options, stdout=out, no_color=True)
    return out.getvalue()


def run_json(*options: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run("--json", *options))
    return result


def rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of the only layer by the topics' names without the prefix."""
    (report,) = result["layers"]
    return {row["topic"].removeprefix(f"{report['prefix']}-"): row for row in report["rows"]}


def failing(*options: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        run(*options)
    return caught.value


def existing(servers: str, prefix: str) -> dict[str, int]:
    """Return the partition counts of the topics with a prefix."""
    topics = AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).topics
    return {
        name.removeprefix(f"{prefix}-"): len(topic.partitions)
        for name, topic in topics.items()
        if name.startswith(f"{prefix}-")
    }


def set_config(servers: str, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE)
    wait_until(lambda: configs(servers, topic)[name] == value, f"{name} of {topic}")


def configs(servers: str, topic: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": servers})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entries = admin.describe_configs([resource])[resource].result(PATIENCE)
    return {name: entry.value for name, entry in entries.items()}


# Creating


def test_creates_what_is_missing_as_the_settings_want_it(
    kafka: str, prefix: str, settings: Any
) -> None:
    settings.CHANNEL_LAYERS = {
        "default": layer(
            kafka,
            prefix,
            topics={"send-group": {"partitions": 5, "config": {"retention.ms": 123_000}}},
        )
    }

    printed = run()

    assert existing(kafka, prefix) == {name: 5 if name == "send-group" else 2 for name in NAMES}
    assert configs(kafka, f"{prefix}-send-group")["retention.ms"] == "123000"
    ack = configs(kafka, f"{prefix}-ack")
    assert ack["retention.ms"] == "600000"
    assert ack["message.timestamp.type"] == "LogAppendTime"
    assert ack["max.message.bytes"] == "2097152"
    assert ack["cleanup.policy"] == "delete"
    assert printed.count("created") == 6
    assert f"Layer 'default' on {kafka}" in printed


def test_every_partition_has_a_leader_when_it_returns(
    kafka: str, prefix: str, settings: Any
) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix, default_partitions=20)}

    run()

    topics = AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=10).topics
    leaders = [
        partition.leader
        for name in NAMES
        for partition in topics[f"{prefix}-{name}"].partitions.values()
    ]
    assert len(leaders) == 6 * 20
    assert min(leaders) >= 0


def test_a_second_run_changes_nothing(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix)}

    first, second = run_json(), run_json()

    assert {row["status"] for row in rows(first).values()} == {"created"}
    assert {row["status"] for row in rows(second).values()} == {"as wanted"}
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["as_wanted"]
    assert second["as_wanted"]
    assert "differs" not in run("--check")


def test_only_the_missing_ones_are_created(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix)}
    run()
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([f"{prefix}-ack"])[f"{prefix}-ack"].result(PATIENCE)
    wait_until(lambda: "ack" not in existing(kafka, prefix), "the topic to be gone")

    found = rows(run_json())

    assert found.pop("ack")["status"] == "created"
    assert {row["status"] for row in found.values()} == {"as wanted"}


def test_a_worker_channel_that_the_settings_name_gets_its_topic(
    kafka: str, prefix: str, settings: Any
) -> None:
    settings.CHANNEL_LAYERS = {
        "default": layer(kafka, prefix, worker_channels={"mail": {"partitions": 3}, "job-*": {}})
    }

    run()

    assert existing(kafka, prefix) == {**dict.fromkeys(NAMES, 2), "work.mail": 3}


def test_a_wrong_topic_config_is_one_sentence(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": layer(kafka, prefix, topics={"ack": {"config": {"retention": 1}}})
    }

    error = failing()

    assert str(error) == (
        f"Layer 'default': Cannot create {prefix}-ack: Unknown topic config name: retention."
    )
    assert error.returncode == 1


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_replication_factor_that_the_cluster_cannot_have(
    kafka: str, prefix: str, settings: Any, options: list[str]
) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix, default_replication_factor=99)}

    error = failing(*options)

    assert f"Cannot create {prefix}-" in str(error)
    assert "lower it, or leave it at -1" in str(error)
    assert error.returncode == 1
    assert existing(kafka, prefix) == {}


# Reporting


def test_a_dry_run_creates_nothing(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix)}

    printed = run("--dry-run")

    assert printed.count("to create") == 6
    assert "Nothing was changed (--dry-run)." in printed
    assert existing(kafka, prefix) == {}


def test_a_check_tells_what_is_missing_and_creates_nothing(
    kafka: str, prefix: str, settings: Any
) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix)}

    error = failing("--check")

    assert str(error) == "6 topics missing. Run 'manage.py kafka_setup_topics'."
    assert error.returncode == 3
    assert existing(kafka, prefix) == {}


def test_differences_are_reported_and_left(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix)}
    run()
    settings.CHANNEL_LAYERS = {
        "default": layer(
            kafka, prefix, expiry=900, topics={"ack": {"partitions": 3, "replication_factor": 2}}
        )
    }

    printed = run()

    assert existing(kafka, prefix) == dict.fromkeys(NAMES, 2)
    for said in (
        "partitions is 2, wanted 3",
        "replication_factor is 1, wanted 2",
        "retention.ms is 600000, wanted 1800000",
        "--increase-partitions",
        "--alter-configs",
        "kafka-reassign-partitions",
    ):
        assert said in printed
    error = failing("--check")
    assert str(error) == (
        "6 topics not as the settings want. Run 'manage.py kafka_setup_topics "
        "--increase-partitions --alter-configs'."
    )
    assert error.returncode == 3


def test_more_partitions_than_wanted_are_no_difference(
    kafka: str, prefix: str, settings: Any
) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix, default_partitions=3)}
    run()
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix, default_partitions=2)}

    assert run_json("--check")["as_wanted"]


def test_configs_that_the_broker_writes_otherwise_are_the_same(
    kafka: str, prefix: str, settings: Any
) -> None:
    wanted = {
        "preallocate": "False",
        "min.cleanable.dirty.ratio": "0.50",
        "retention.ms": " 600000",
        "cleanup.policy": " delete ",
    }
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix, topics={"ack": {"config": wanted}})}

    assert rows(run_json())["ack"]["status"] == "created"
    assert run_json("--check")["as_wanted"]


# Changing


def test_partitions_are_added_on_demand(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix)}
    run()
    settings.CHANNEL_LAYERS = {
        "default": layer(kafka, prefix, topics={"send-user": {"partitions": 6}})
    }

    dry = rows(run_json("--dry-run", "--increase-partitions"))
    assert existing(kafka, prefix)["send-user"] == 2
    wet = rows(run_json("--increase-partitions"))

    assert (dry["send-user"]["status"], dry["ack"]["status"]) == ("to change", "as wanted")
    assert dry["send-user"]["changes"] == ["partitions 2 -> 6"]
    assert wet["send-user"]["status"] == "changed"
    assert wet["send-user"]["partitions"] == 6
    assert existing(kafka, prefix) == {**dict.fromkeys(NAMES, 2), "send-user": 6}
    assert run_json("--check")["as_wanted"]


def test_configs_are_altered_on_demand_and_no_other(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix)}
    run()
    topic = f"{prefix}-send-all"
    set_config(kafka, topic, "retention.ms", "700000")
    set_config(kafka, topic, "retention.bytes", "12345678")

    dry = rows(run_json("--dry-run", "--alter-configs"))["send-all"]
    assert configs(kafka, topic)["retention.ms"] == "700000"
    wet = run_json("--alter-configs")

    assert dry["changes"] == ["retention.ms 700000 -> 600000"]
    assert (dry["status"], dry["differences"]) == ("to change", [])
    assert rows(wet)["send-all"]["status"] == "changed"
    assert wet["as_wanted"]
    assert configs(kafka, topic)["retention.ms"] == "600000"
    assert configs(kafka, topic)["retention.bytes"] == "12345678"


def test_a_dry_run_has_the_broker_validate_configs(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix)}
    run()
    settings.CHANNEL_LAYERS = {
        "default": layer(kafka, prefix, topics={"ack": {"config": {"preallocate": "maybe"}}})
    }

    error = failing("--dry-run", "--alter-configs")

    assert f"Cannot alter the configs of {prefix}-ack: Invalid value maybe" in str(error)


def test_a_replication_factor_is_never_changed(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer(kafka, prefix)}
    run()
    settings.CHANNEL_LAYERS = {
        "default": layer(kafka, prefix, topics={"ack": {"replication_factor": 2}})
    }

    found = run_json("--increase-partitions", "--alter-configs")

    assert not found["changed"]
    assert not found["as_wanted"]
    assert rows(found)["ack"]["differences"] == [
        {"what": "replication_factor", "wanted": "2", "found": "1"}
    ]


# Which layers


def test_other_layers_are_skipped_with_a_note(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": layer(kafka, prefix),
        "other": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        "memory": {"BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer"},
    }

    printed = run()

    assert "Layer 'other' is skipped: its backend is channels.layers.InMemory" in printed
    assert "Layer 'memory' is skipped: it keeps its messages in memory." in printed
    assert set(existing(kafka, prefix)) == set(NAMES)
    assert [note["alias"] for note in run_json()["skipped"]] == ["other", "memory"]


def test_layers_can_be_chosen(kafka: str, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        each: layer(kafka, f"{prefix}-{each}") for each in ("one", "two", "three")
    }

    found = run_json("--layer", "one", "--layer", "three")

    assert [report["alias"] for report in found["layers"]] == ["one", "three"]
    assert not existing(kafka, f"{prefix}-two")


def test_no_kafka_layer_at_all(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}

    assert "there is nothing to do" in run()
    assert run_json("--check") == {
        "dry_run": False,
        "changed": False,
        "as_wanted": True,
        "layers": [],
        "skipped": [],
    }


@pytest.mark.parametrize(
    ("layers", "options", "sentence"),
    [
        ({"a": {}}, ["--layer", "b"], "There is no layer 'b' in CHANNEL_LAYERS; it has 'a'."),
        ({"a": {}}, [], "Layer 'a': It has no BACKEND"),
        ({"a": {"BACKEND": "no.Such"}}, [], "Layer 'a': BACKEND \"no.Such\" cannot be imported"),
        ({"a": {"BACKEND": BACKEND}}, [], "Layer 'a': CONFIG has no bootstrap_servers"),
        ([], [], "CHANNEL_LAYERS must be a dict"),
        ({"a": layer("x:1", "p", admin_config={"foo": 1})}, [], 'configuration property: "foo"'),
        ({}, ["--check", "--alter-configs"], "--check changes nothing: leave out"),
        ({}, ["--check", "--dry-run"], "not allowed with argument"),
        ({}, ["--timeout", "0"], "'0' is no number of seconds from 0.1 to 3600"),
        ({}, ["--timeout", "nan"], "'nan' is no number of seconds"),
        ({}, ["--worker-channel", "jobs\n"], "'jobs\\n': Channel name must be"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(
    settings: Any, layers: Any, options: list[str], sentence: str
) -> None:
    settings.CHANNEL_LAYERS = layers

    assert sentence in str(failing(*options))


# Brokers that do not help


def test_nobody_there(
    settings: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings.CHANNEL_LAYERS = {"default": layer("127.0.0.1:1", "x")}
    started = time.monotonic()

    # The client tells what is wrong at once, where the machine is not slow.
    for timeout in ("0.5", "10"):
        error = failing("--timeout", timeout)
        if "failed" in str(error):
            break

    assert str(error).startswith("Layer 'default': No Kafka broker of 127.0.0.1:1 answered (")
    assert "127.0.0.1:1 failed: Connection refused); start it, or correct" in str(error)
    assert error.returncode == 1
    assert time.monotonic() - started < PATIENCE
    assert capfd.readouterr().err == ""
    assert caplog.records == []


def test_the_embedded_broker_tells_what_it_cannot(
    embedded: EmbeddedBroker, prefix: str, settings: Any
) -> None:
    servers = embedded.bootstrap_servers
    settings.CHANNEL_LAYERS = {"default": layer(servers, prefix)}
    assert str(failing("--check")).startswith("6 topics missing.")
    assert "(the broker does not support this request)" in str(failing())
    for name in NAMES:
        embedded.create_topic(f"{prefix}-{name}", 2)

    printed = run("--check")

    assert printed.count("as wanted") == 6
    assert (
        "The configs of 6 topics could not be compared: this broker does not tell them." in printed
    )


def layer_of(user: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return a layer for a user of the secure broker."""
    return layer(user["bootstrap_servers"], prefix, client_config=user.get("client_config", {}))


def test_no_right_to_see_topics(secure: SecureBroker, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer_of(secure.user(0, []), prefix)}

    error = failing()

    assert f"Cannot look at {prefix}-" in str(error)
    assert "this client has no right to do that; grant it an ACL" in str(error)
    assert error.returncode == 1


def test_no_right_to_create_topics(secure: SecureBroker, prefix: str, settings: Any) -> None:
    reader = secure.user(0, [("topic", f"{prefix}*", "DESCRIBE")])
    settings.CHANNEL_LAYERS = {"default": layer_of(reader, prefix)}

    for options in ([], ["--dry-run"]):
        error = failing(*options)
        assert f"Cannot create {prefix}-" in str(error)
        assert "grant it an ACL" in str(error)


def test_no_right_to_see_configs(secure: SecureBroker, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer_of(secure.plain, prefix)}
    run()
    maker = secure.user(0, [("topic", f"{prefix}*", each) for each in ("DESCRIBE", "CREATE")])
    settings.CHANNEL_LAYERS = {"default": layer_of(maker, prefix)}

    printed = run("--check")

    assert printed.count("as wanted") == 6
    assert (
        "The configs of 6 topics could not be compared: this client has no right to see them; "
        "grant it DESCRIBE_CONFIGS."
    ) in printed


def test_no_right_to_alter(secure: SecureBroker, prefix: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer_of(secure.plain, prefix)}
    run()
    rights = ("DESCRIBE", "DESCRIBE_CONFIGS")
    maker = secure.user(0, [("topic", f"{prefix}*", each) for each in rights])
    mine = layer_of(maker, prefix)
    mine["CONFIG"].update(default_partitions=3, expiry=900)
    settings.CHANNEL_LAYERS = {"default": mine}

    assert f"Cannot add partitions to {prefix}-" in str(failing("--increase-partitions"))

    error = failing("--alter-configs")
    assert f"Cannot alter the configs of {prefix}-" in str(error)
    assert "grant it an ACL" in str(error)


def test_a_wrong_password_is_refused_at_once(
    secure: SecureBroker, prefix: str, settings: Any
) -> None:
    stranger = secure.login("stranger", "not-the-password")
    settings.CHANNEL_LAYERS = {"default": layer_of(stranger, prefix)}
    started = time.monotonic()

    error = failing("--timeout", "300")

    assert "do not let this client in" in str(error)
    assert "correct the credentials or certificates in client_config." in str(error)
    assert "not-the-password" not in str(error)
    assert time.monotonic() - started < 2 * PATIENCE


# The parts that no broker is needed for


@for_each(
    ("wanted", "found", "same"),
    [
        ("600000", "600000", True),
        ("600000", "600000.0", True),
        ("6e5", "600000", True),
        ("600000", "600001", False),
        ("true", "TRUE", True),
        ("true", "false", False),
        ("delete,compact", "compact, delete", True),
        ("delete", "compact,delete", False),
        ("LogAppendTime", "CreateTime", False),
        ("LogAppendTime", "LogAppendTime", True),
        ("", "", True),
        ("", "x", False),
        ("NaN", "NaN", True),
    ],
)
def test_values_are_compared_by_what_they_mean(wanted: str, found: str, same: bool) -> None:
    spec = TopicSpec("t", 1, -1, {"c": wanted})
    state = TopicState("t", 1, 1, {"c": found})

    assert differences(spec, state) == ([] if same else [Difference("c", wanted, found)])


def test_a_config_that_the_broker_does_not_know_is_a_difference() -> None:
    (found,) = differences(TopicSpec("t", 1, -1, {"c": "1"}), TopicState("t", 1, 1, {}))

    assert str(found) == "c is unknown to the broker, wanted 1"


def test_configs_that_are_not_told_are_no_difference() -> None:
    assert differences(TopicSpec("t", 1, -1, {"c": "1"}), TopicState("t", 1, 1, None)) == []


def test_partitions_without_a_leader_are_a_difference() -> None:
    (found,) = differences(TopicSpec("t", 4, -1), TopicState("t", 4, 1, leaderless=3))

    assert str(found) == "leaders is 1, wanted 4"


def test_topics_that_never_show_up_end_in_a_sentence(kafka: str, prefix: str) -> None:
    admin = TopicAdmin(LayerConfig.from_keywords(bootstrap_servers=kafka), 0.2)

    with pytest.raises(Exception, match=rf"after 0.2 s {prefix}-x does not exist\. Look at"):
        admin.wait_until_visible([TopicSpec(f"{prefix}-x", 1, -1)])


def test_creating_what_exists_by_now_leaves_it(kafka: str, prefix: str) -> None:
    config = LayerConfig.from_keywords(bootstrap_servers=kafka, prefix=prefix, default_partitions=1)
    specs = topic_specs(config)
    plain = AdminClient({"bootstrap.servers": kafka})
    plain.create_topics([NewTopic(specs[0].name, 3, -1)])[specs[0].name].result(PATIENCE)
    admin = TopicAdmin(config, 10)

    admin.create(specs)
    admin.wait_until_visible([TopicSpec(spec.name, 1, -1) for spec in specs])

    counts = {
        name: state.partitions for name, state in admin.inspect([s.name for s in specs]).items()
    }
    assert counts == {spec.name: 3 if spec is specs[0] else 1 for spec in specs}
