"""The roles of docs/security.md have the rights they need, and errors name what is missing."""

from __future__ import annotations

import argparse
import io
import itertools
import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command

from kafka_layer.exceptions import HistoryUnavailable, KafkaLayerError, ProduceFailed, TopicError
from kafka_layer.layer import KafkaChannelLayer
from tests.support.kafka import run_kafka_tool
from tests.support.layers import PARTITIONS, Backend, Layers, next_message, next_messages
from tests.support.patience import START
from tests.support.secure import Rule, SecureBroker
from tests.support.waiting import wait_until, wait_until_async

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BACKEND = "kafka_layer.layer.KafkaChannelLayer"
FIXED = ("send-group", "send-user", "send-all", "send-conn", "group-mgmt", "ack")
CHANNEL = "thumbnails"

Login = Callable[[Sequence[Rule]], dict[str, Any]]


def rules_of(role: str, prefix: str) -> list[Rule]:
    """Return the rights that the page's commands give, for another prefix than ``shop``."""
    return [
        (kind, re.sub(r"^shop\b", prefix, name), operation)
        for line in commands_of(role)
        for kind, name, operation in _granted(line)
    ]


def commands_of(role: str) -> list[str]:
    """Return the page's commands for a role."""
    found = re.search(rf'^```bash title="{role}"\n(.*?)^```$', PAGE.read_text(), re.M | re.S)
    assert found, f"{PAGE} has no commands for {role}"
    return found[1].replace("\\\n", " ").splitlines()


def _granted(line: str) -> list[Rule]:
    words = shlex.split(line)
    assert words[:3] == ["kafka-acls.sh", "$ADMIN", "--add"], line
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--resource-pattern-type", default="literal")
    for option in ("--operation", "--topic", "--group"):
        parser.add_argument(option, action="append", default=[])
    given = parser.parse_args(words[3:])
    star = {"literal": "", "prefixed": "*"}[given.resource_pattern_type]
    resources = [("topic", each) for each in given.topic] + [
        ("group", each) for each in given.group
    ]
    # The tool writes AlterConfigs what everything else calls ALTER_CONFIGS.
    operations = [each.replace("Configs", "_CONFIGS").upper() for each in given.operation]
    return [(kind, name + star, each) for each in operations for kind, name in resources]


def test_kafkas_own_tool_takes_a_command_of_the_page(secure: SecureBroker) -> None:
    (command,) = commands_of("provisioning")
    user = f"by-the-tool-{secrets.token_hex(4)}"
    words = shlex.split(command.replace("User:shop-setup", f"User:{user}"))[2:]
    servers = secure.plain["bootstrap_servers"]

    done = run_kafka_tool(
        "org.apache.kafka.tools.AclCommand", "--bootstrap-server", servers, *words
    )

    assert done.returncode == 0, done.stdout
    wait_until(
        lambda: secure.rules(user) == set(rules_of("provisioning", "shop")),
        "the broker to know what the tool gave",
    )


@pytest.fixture
def login(secure: SecureBroker) -> Login:
    """Returns the login of a user with some rights, of another user at each call in a test."""
    numbers = itertools.count()
    return lambda rules: secure.user(next(numbers), rules)


@pytest.fixture
def make_role(login: Login, make_layer: Layers) -> Callable[..., KafkaChannelLayer]:
    """Makes a layer with the rights of roles, on topics that are there; ``without`` takes some."""

    def make(*roles: str, without: tuple[Rule, ...] = (), **config: Any) -> KafkaChannelLayer:
        rules = [rule for role in roles for rule in rules_of(role, make_layer.prefix)]
        assert set(without) <= set(rules)
        user = login([rule for rule in rules if rule not in without])
        return make_layer(**user, auto_create_topics=False, await_produce=True, **config)

    return make


@pytest.fixture(scope="module")
def other(backend: Backend) -> Iterator[KafkaChannelLayer]:
    """Another server, which may do everything; the topics are there once it runs.

    It takes no jobs, and runs on from test to test.
    """
    layers = Layers(backend)
    layer = layers()
    layer.send_sync(CHANNEL, {})
    async_to_sync(layer.new_channel)()
    layer.flush_sync()
    yield layer
    layers.close()


@pytest.fixture
def boss(make_layer: Layers) -> KafkaChannelLayer:
    """A server of the test, which may do everything."""
    return make_layer()


async def serve(mine: KafkaChannelLayer, other: KafkaChannelLayer) -> None:
    """Do all that a web server does, together with another one."""
    channel, far = await mine.new_channel(), await other.new_channel()
    await mine.group_add("room", far)
    await other.group_add("room", channel)
    await mine.user_add("someone", channel)
    await mine.send(far, {"n": 1})
    assert await next_message(other, far) == {"n": 1}
    await other.send(channel, {"n": 2})
    assert await next_message(mine, channel) == {"n": 2}
    await mine.user_send("someone", {"n": 3})
    assert await next_message(mine, channel) == {"n": 3}
    for number, send in ((4, partial(mine.group_send, "room")), (5, mine.all_send)):
        await send({"n": number})
        assert await next_message(mine, channel) == {"n": number}
        assert await next_message(other, far) == {"n": number}


async def send_all_kinds(mine: KafkaChannelLayer, other: KafkaChannelLayer) -> None:
    """Send a message of each kind and see it arrive."""
    channel = await other.new_channel()
    await other.group_add("room", channel)
    await other.user_add("someone", channel)
    for number, send in enumerate(
        (
            partial(mine.send, channel),
            partial(mine.group_send, "room"),
            partial(mine.user_send, "someone"),
            mine.all_send,
        )
    ):
        await send({"n": number})
        assert await next_message(other, channel) == {"n": number}


class TestWebServer:
    async def test_it_can_do_its_work(
        self, make_role: Callable[..., KafkaChannelLayer], other: KafkaChannelLayer
    ) -> None:
        mine = make_role("web server")
        await serve(mine, other)
        await mine.flush()
        assert not mine.stats().errors
        assert not mine.stats().dropped

    @pytest.mark.parametrize("operation", ["READ", "WRITE"])
    @pytest.mark.parametrize("topic", FIXED)
    async def test_each_right_is_missed_and_named(
        self,
        make_layer: Layers,
        make_role: Callable[..., KafkaChannelLayer],
        other: KafkaChannelLayer,
        topic: str,
        operation: str,
    ) -> None:
        name = f"{make_layer.prefix}-{topic}"
        mine = make_role("web server", without=(("topic", name, operation),))
        with pytest.raises((TopicError, ProduceFailed)) as caught:
            await serve(mine, other)
        assert re.search(rf"{name}\b.*grant it an ACL for {operation}", str(caught.value))

    async def test_without_the_group_messages_flow_and_it_is_counted(
        self,
        make_layer: Layers,
        make_role: Callable[..., KafkaChannelLayer],
        other: KafkaChannelLayer,
    ) -> None:
        group: Rule = ("group", make_layer.prefix, "DESCRIBE")
        mine = make_role("web server", without=(group,))
        await serve(mine, other)
        await wait_until_async(
            lambda: "GROUP_AUTHORIZATION_FAILED" in mine.stats().errors, "the error to be counted"
        )

    async def test_it_can_neither_create_topics_nor_take_jobs(
        self,
        make_role: Callable[..., KafkaChannelLayer],
        make_layer: Layers,
        login: Login,
        other: KafkaChannelLayer,
    ) -> None:
        mine = make_role("web server")
        for attempt in (mine.receive(CHANNEL), mine.send(CHANNEL, {})):
            with pytest.raises(TopicError, match=f"may not see them.*-work.{CHANNEL}"):
                await attempt
        creating = make_layer(**login(rules_of("web server", make_layer.prefix)))
        with pytest.raises(TopicError, match=r"Cannot create .*-work.new.* grant it an ACL"):
            await creating.send("new", {})

    async def test_a_right_that_is_taken_away_is_counted_and_the_rest_goes_on(
        self,
        make_layer: Layers,
        make_role: Callable[..., KafkaChannelLayer],
        secure: SecureBroker,
        other: KafkaChannelLayer,
    ) -> None:
        mine = make_role("web server")
        channel = await mine.new_channel()
        await mine.group_add("room", channel)
        user = mine.config.client_config["sasl.username"]
        secure.forbid(user, ("topic", f"{make_layer.prefix}-send-user", "READ"))
        await wait_until_async(
            lambda: "TOPIC_AUTHORIZATION_FAILED" in mine.stats().errors, "the error to be counted"
        )
        await other.group_send("room", {"n": 1})
        assert await next_message(mine, channel) == {"n": 1}

    async def test_with_the_right_to_delete_a_flush_clears_the_jobs(
        self, make_role: Callable[..., KafkaChannelLayer], boss: KafkaChannelLayer
    ) -> None:
        seeing = make_role("web server", "sender of jobs")
        with pytest.raises(TopicError, match=r"Cannot delete the records of .*-work"):
            await seeing.flush()
        mine = make_role("web server", "sender of jobs", "flush")
        await mine.send(CHANNEL, {"n": 1})
        await mine.flush()
        await mine.send(CHANNEL, {"n": 2})
        assert await next_message(boss, CHANNEL) == {"n": 2}


class TestSender:
    async def test_it_can_send_all_kinds_of_messages(
        self, make_role: Callable[..., KafkaChannelLayer], other: KafkaChannelLayer
    ) -> None:
        mine = make_role("sender")
        await send_all_kinds(mine, other)
        assert not mine.stats().errors

    async def test_the_history_wants_one_more_right(
        self, make_role: Callable[..., KafkaChannelLayer], other: KafkaChannelLayer
    ) -> None:
        mine = make_role("sender")
        await mine.group_send("past", {"n": 1})
        with pytest.raises(
            HistoryUnavailable, match=r"send-group\[\d\].* grant it an ACL for READ"
        ):
            await mine.group_history("past")
        mine = make_role("sender", "history")
        assert (await mine.group_history("past")).messages == [{"n": 1}]

    @pytest.mark.parametrize("topic", FIXED[:4])
    async def test_each_right_to_write_is_missed_and_named(
        self,
        make_layer: Layers,
        make_role: Callable[..., KafkaChannelLayer],
        other: KafkaChannelLayer,
        secure: SecureBroker,
        topic: str,
    ) -> None:
        name = f"{make_layer.prefix}-{topic}"
        mine = make_role("sender", without=(("topic", name, "WRITE"),))
        secure.allow(mine.config.client_config["sasl.username"], [("topic", name, "DESCRIBE")])
        with pytest.raises(ProduceFailed, match=f"{name}.* grant it an ACL for WRITE"):
            await send_all_kinds(mine, other)
        assert mine.stats().failed == mine.stats().dropped["produce"] == 1

    @pytest.mark.parametrize("topic", FIXED)
    async def test_each_topic_has_to_be_seen(
        self,
        make_layer: Layers,
        make_role: Callable[..., KafkaChannelLayer],
        other: KafkaChannelLayer,
        topic: str,
    ) -> None:
        name = f"{make_layer.prefix}-{topic}"
        rules = rules_of("sender", make_layer.prefix)
        mine = make_role("sender", without=tuple(rule for rule in rules if rule[1] == name))
        with pytest.raises(TopicError, match=rf"may not see them\): {name}\."):
            await mine.group_send("room", {})

    async def test_it_can_neither_receive_nor_change_groups(
        self, make_role: Callable[..., KafkaChannelLayer], other: KafkaChannelLayer
    ) -> None:
        mine = make_role("sender")
        channel = await other.new_channel()
        for attempt in (mine.new_channel(), mine.group_add("room", channel)):
            with pytest.raises(TopicError, match=r"Cannot read .* grant it an ACL for READ"):
                await attempt

    async def test_jobs_want_one_more_right(
        self, make_role: Callable[..., KafkaChannelLayer], boss: KafkaChannelLayer
    ) -> None:
        with pytest.raises(TopicError, match=f"may not see them.*-work.{CHANNEL}"):
            await make_role("sender").send(CHANNEL, {"n": 1})
        await make_role("sender", "sender of jobs").send(CHANNEL, {"n": 2})
        assert await next_message(boss, CHANNEL) == {"n": 2}


class TestWorker:
    async def test_it_can_take_jobs(
        self, make_role: Callable[..., KafkaChannelLayer], other: KafkaChannelLayer
    ) -> None:
        mine = make_role("worker")
        await other.send(CHANNEL, {"n": 1})
        assert await next_message(mine, CHANNEL) == {"n": 1}
        assert not mine.stats().errors

    @pytest.mark.parametrize(
        ("kind", "said"),
        [("topic", "Cannot read .*-work.thumbnails .*READ"), ("group", "the consumer group")],
    )
    async def test_each_right_to_read_is_missed_and_named(
        self,
        make_layer: Layers,
        make_role: Callable[..., KafkaChannelLayer],
        secure: SecureBroker,
        other: KafkaChannelLayer,
        kind: str,
        said: str,
    ) -> None:
        name = f"{make_layer.prefix}-work.{CHANNEL}"
        mine = make_role("worker", without=((kind, name, "READ"),))
        secure.allow(mine.config.client_config["sasl.username"], [("topic", name, "DESCRIBE")])
        with pytest.raises(TopicError, match=said):
            await mine.receive(CHANNEL)

    async def test_it_can_do_nothing_else(
        self, make_role: Callable[..., KafkaChannelLayer], other: KafkaChannelLayer
    ) -> None:
        mine = make_role("worker")
        with pytest.raises(ProduceFailed, match=r"-send-group.* grant it an ACL for WRITE"):
            await mine.group_send("room", {})
        with pytest.raises(TopicError, match=r"Cannot read .*-send-group"):
            await mine.new_channel()
        with pytest.raises(TopicError, match="may not see them"):
            await mine.receive("reports")


class TestOperator:
    @pytest.fixture
    def manage(self, settings: Any, prefix: str) -> Callable[..., str]:
        """Runs a command with the settings of a user; returns what it printed."""

        def run(user: dict[str, Any], *arguments: str, **config: Any) -> str:
            own = {"prefix": prefix, "default_partitions": PARTITIONS, **user, **config}
            settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": own}}
            printed = io.StringIO()
            call_command(*arguments, stdout=printed)
            return printed.getvalue()

        return run

    def test_provisioning_has_all_rights_it_needs(
        self, login: Login, prefix: str, manage: Callable[..., str]
    ) -> None:
        user = login(rules_of("provisioning", prefix))
        command = "kafka_setup_topics"
        assert manage(user, command, "--worker-channel", "jobs").count("created") == 7
        assert manage(user, command, "--check").count("as wanted") == 6
        raised = manage(
            user,
            *(command, "--increase-partitions", "--alter-configs"),
            default_partitions=PARTITIONS + 1,
            expiry=900,
        )
        assert raised.count("changed") == 6

    @pytest.mark.parametrize(
        ("operation", "said"),
        [
            ("CREATE", "Cannot create "),
            ("ALTER", "Cannot add partitions to "),
            ("ALTER_CONFIGS", "Cannot alter the configs of "),
        ],
    )
    def test_each_right_is_missed_and_named(
        self,
        secure: SecureBroker,
        login: Login,
        prefix: str,
        manage: Callable[..., str],
        operation: str,
        said: str,
    ) -> None:
        command = "kafka_setup_topics"
        if operation != "CREATE":
            manage(secure.plain, command)
        rules = rules_of("provisioning", prefix)
        user = login([rule for rule in rules if rule[2] != operation])
        with pytest.raises(CommandError, match=f"{said}{prefix}-.*grant it an ACL"):
            manage(
                user,
                *(command, "--increase-partitions", "--alter-configs"),
                default_partitions=PARTITIONS + 1,
                expiry=900,
            )

    async def test_provisioning_reads_and_writes_nothing(
        self, login: Login, make_layer: Layers, other: KafkaChannelLayer
    ) -> None:
        user = login(rules_of("provisioning", make_layer.prefix))
        layer = make_layer(**user, await_produce=True)
        with pytest.raises(ProduceFailed, match="grant it an ACL for WRITE"):
            await layer.group_send("room", {})
        with pytest.raises(TopicError, match="grant it an ACL for READ"):
            await layer.new_channel()

    def test_a_server_may_provision_with_another_login(
        self, login: Login, prefix: str, manage: Callable[..., str]
    ) -> None:
        web = login(rules_of("web server", prefix))
        setup = login(rules_of("provisioning", prefix))
        printed = manage(web, "kafka_setup_topics", admin_config=setup["client_config"])
        assert printed.count("created") == 6

    def test_monitoring(
        self, secure: SecureBroker, login: Login, prefix: str, manage: Callable[..., str]
    ) -> None:
        manage(secure.plain, "kafka_setup_topics", "--worker-channel", CHANNEL)
        rules = rules_of("web server", prefix) + rules_of("monitoring", prefix)
        printed = manage(login(rules), "kafka_status", "--wait", "0.1")
        assert "Round trip: " in printed
        assert f"{prefix}-work.{CHANNEL}" in printed
        seeing = [rule for rule in rules if rule[0] == "topic"]
        with pytest.raises(CommandError, match=f"{prefix}-work.{CHANNEL}.*consumer group"):
            manage(login(seeing), "kafka_status", "--wait", "0.1")


def test_who_has_no_right_at_all_is_told_so(
    login: Login, make_layer: Layers, other: KafkaChannelLayer
) -> None:
    layer = make_layer(**login([]))
    with pytest.raises(KafkaLayerError, match=f"{make_layer.prefix}-.* no right to do that"):
        layer.group_send_sync("room", {})


class TestGuest:
    """Who may only see the topics is told what is missing, by worker channels, too."""

    @pytest.fixture
    def guest(self, login: Login, make_layer: Layers) -> KafkaChannelLayer:
        """Who may see the topics, and do no more."""
        user = login(
            [
                ("topic", f"{make_layer.prefix}-*", "DESCRIBE"),
                ("topic", f"{make_layer.prefix}-ack", "WRITE"),
            ]
        )
        return make_layer(**user, await_produce=True)

    @pytest.fixture
    def jobs(self) -> str:
        """A worker channel that no other test uses."""
        return f"jobs.{secrets.token_hex(4)}"

    async def test_a_topic_that_may_not_be_written_to(
        self, boss: KafkaChannelLayer, guest: KafkaChannelLayer, jobs: str
    ) -> None:
        await boss.send(jobs, {"n": 1})
        with pytest.raises(ProduceFailed, match="grant it an ACL"):
            await guest.send(jobs, {"n": 2})

    async def test_a_topic_that_may_not_be_created(
        self, boss: KafkaChannelLayer, guest: KafkaChannelLayer, jobs: str
    ) -> None:
        await boss.send("other", {})
        with pytest.raises(TopicError, match="grant it an ACL"):
            await guest.send(jobs, {"n": 2})

    async def test_a_group_that_may_not_be_joined(
        self, boss: KafkaChannelLayer, guest: KafkaChannelLayer, jobs: str
    ) -> None:
        await boss.send(jobs, {"n": 1})
        started = time.monotonic()
        with pytest.raises(TopicError, match="no right to use the consumer group"):
            await guest.receive(jobs)
        # Far less than the tests give a start.
        assert time.monotonic() - started < START / 2
        assert await next_messages(boss, jobs, 1) == [{"n": 1}]
