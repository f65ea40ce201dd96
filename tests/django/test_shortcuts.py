"""kafka_layer.shortcuts with real transactions: all in memory, the transactions on Kafka too."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import MessageTooLarge
from channels.layers import channel_layers, get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connections, transaction
from django.test import override_settings

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.shortcuts import (
    all_send_on_commit,
    group_send_on_commit,
    send_on_commit,
    user_send_on_commit,
)
from kafka_layer.testing import InMemoryKafkaChannelLayer
from tests.support.layers import (
    Backend,
    Layers,
    backend_named,
    backends,
    memory_backend,
    next_message,
)
from tests.support.tables import for_each

MESSAGE = {"type": "chat.message", "text": "committed"}
SMALL = {"max.message.bytes": 2048}
NOW: dict[str, Any] = {"type": "sent at once"}


@pytest.fixture(scope="module")
def backend() -> Backend:
    return memory_backend()


@pytest.fixture(autouse=True)
def database(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """A database with real transactions; nothing is written to it that would have to be undone."""
    with django_db_blocker.unblock():
        yield


class Receiver:
    """A channel of another server, in the group ``room`` and of the user ``7``."""

    def __init__(self, layer: KafkaChannelLayer) -> None:
        self.layer = layer
        self.channel: str = async_to_sync(layer.new_channel)()
        layer.group_add_sync("room", self.channel)
        layer.user_add_sync(7, self.channel)

    def next(self) -> Any:
        return async_to_sync(next_message)(self.layer, self.channel)


@pytest.fixture
def receiver(make_layer: Layers) -> Receiver:
    return Receiver(make_layer())


@pytest.fixture
def sender(make_layer: Layers) -> Iterator[KafkaChannelLayer]:
    """The layer that CHANNEL_LAYERS calls ``default``."""
    before = channel_layers.set("default", make_layer())
    yield channel_layers["default"]
    if before is None:
        del channel_layers.backends["default"]
    else:
        channel_layers.set("default", before)


class Way:
    """One of the shortcuts, and the way to send at once to the same address from the same server.

    The order of a sender's messages to one address tells which of the two went out first.
    """

    def __init__(self, kind: str, layer: KafkaChannelLayer, receiver: Receiver) -> None:
        ways: dict[str, tuple[Callable[..., None], list[Any]]] = {
            "send": (send_on_commit, [receiver.channel]),
            "group_send": (group_send_on_commit, ["room"]),
            "user_send": (user_send_on_commit, [7]),
            "all_send": (all_send_on_commit, []),
        }
        self._on_commit, self._address = ways[kind]
        self._at_once: Callable[..., object] = getattr(layer, f"{kind}_sync")

    def on_commit(self, message: Any, **options: Any) -> None:
        self._on_commit(*self._address, message, **options)

    def at_once(self, message: Any = NOW) -> None:
        self._at_once(*self._address, message)


@pytest.fixture(params=["send", "group_send", "user_send", "all_send"])
def way(request: pytest.FixtureRequest, sender: KafkaChannelLayer, receiver: Receiver) -> Way:
    return Way(request.param, sender, receiver)


@contextlib.contextmanager
def rolled_back() -> Iterator[None]:
    """A transaction, or a savepoint in one, that ends with an error of the database."""
    with contextlib.suppress(IntegrityError), transaction.atomic():
        yield
        raise IntegrityError


class TestTransactions:
    @pytest.fixture(params=backends("memory", "kafka"))
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        return backend_named(request.param, request)

    def test_sent_after_the_commit(self, way: Way, receiver: Receiver) -> None:
        with transaction.atomic():
            way.on_commit(MESSAGE)
            way.at_once()
            assert receiver.next() == NOW
        assert receiver.next() == MESSAGE

    def test_not_sent_after_a_rollback(self, way: Way, receiver: Receiver) -> None:
        with rolled_back():
            way.on_commit(MESSAGE)
        with transaction.atomic():
            way.on_commit(MESSAGE)
            transaction.set_rollback(True)
        way.at_once()
        assert receiver.next() == NOW

    def test_outside_a_transaction_it_is_sent_at_once(self, way: Way, receiver: Receiver) -> None:
        way.on_commit(MESSAGE)
        way.at_once()
        assert receiver.next() == MESSAGE
        assert receiver.next() == NOW

    def test_in_the_order_of_the_calls(self, way: Way, receiver: Receiver) -> None:
        with transaction.atomic():
            for number in range(5):
                way.on_commit({"n": number})
        assert [receiver.next() for _ in range(5)] == [{"n": number} for number in range(5)]

    def test_a_savepoint_waits_for_the_outermost_commit(self, way: Way, receiver: Receiver) -> None:
        with transaction.atomic():
            with transaction.atomic(), transaction.atomic():
                way.on_commit(MESSAGE)
            way.at_once()
            assert receiver.next() == NOW
        assert receiver.next() == MESSAGE

    def test_a_savepoint_that_is_rolled_back_takes_its_messages_with_it(
        self, way: Way, receiver: Receiver
    ) -> None:
        with transaction.atomic():
            way.on_commit({"in": "the transaction"})
            with rolled_back():
                way.on_commit({"in": "the savepoint"})
                with transaction.atomic():
                    way.on_commit({"in": "a savepoint inside"})
            with transaction.atomic():
                way.on_commit({"in": "another savepoint"})
        way.at_once()
        assert [receiver.next() for _ in range(3)] == [
            {"in": "the transaction"},
            {"in": "another savepoint"},
            NOW,
        ]

    def test_a_rollback_of_the_outermost_takes_all(self, way: Way, receiver: Receiver) -> None:
        with rolled_back(), transaction.atomic():
            way.on_commit(MESSAGE)
        way.at_once()
        assert receiver.next() == NOW

    def test_the_transaction_of_another_database(
        self, way: Way, receiver: Receiver, other_database: str
    ) -> None:
        with transaction.atomic(using=other_database):
            with transaction.atomic():
                way.on_commit(MESSAGE, using=other_database)
            way.at_once()
            assert receiver.next() == NOW
        assert receiver.next() == MESSAGE

    @pytest.fixture
    def other_database(self, tmp_path: Path) -> Iterator[str]:
        # Not in DATABASES: a test may only use those that it was declared with.
        settings = {**connections.settings["default"], "NAME": str(tmp_path / "other.sqlite3")}
        connections["other"] = connections["default"].__class__(settings, "other")
        yield "other"
        connections["other"].close()
        del connections["other"]


class TestAfterTheCommit:
    """What goes wrong in a send that was put off until the commit."""

    @pytest.fixture
    def way(self, request: pytest.FixtureRequest, receiver: Receiver) -> Iterator[Way]:
        """A shortcut whose send raises ChannelFull or MessageTooLarge when its time has come."""
        full = InMemoryKafkaChannelLayer(prefix="full", topics={"send-group": {"config": SMALL}})
        before = channel_layers.set("default", full)
        yield Way("group_send", full, receiver)
        full.close_sync()
        if before is not None:
            channel_layers.set("default", before)

    def test_an_error_is_logged_and_counted_and_the_other_hooks_run(
        self, way: Way, caplog: pytest.LogCaptureFixture
    ) -> None:
        ran = []
        with transaction.atomic():
            transaction.on_commit(lambda: ran.append("before"))
            way.on_commit({"text": "x" * 2000})
            transaction.on_commit(lambda: ran.append("after"))

        assert ran == ["before", "after"]
        layer = channel_layers["default"]
        assert layer.stats().errors == {"on_commit": 1}
        (record,) = [each for each in caplog.records if each.name == "kafka_layer"]
        assert "not sent after the commit" in record.message
        assert record.exc_info is not None
        assert record.exc_info[0] is MessageTooLarge

    def test_outside_a_transaction_as_well(self, way: Way) -> None:
        way.on_commit({"text": "x" * 2000})

        assert channel_layers["default"].stats().errors == {"on_commit": 1}

    def test_it_is_raised_where_asked_for(self, way: Way) -> None:
        ran = []

        def commit() -> None:
            with transaction.atomic():
                way.on_commit({"text": "x" * 2000}, robust=False)
                transaction.on_commit(lambda: ran.append("after"))

        with pytest.raises(MessageTooLarge):
            commit()
        assert ran == []
        assert channel_layers["default"].stats().errors == {}


class TestTheMessage:
    def test_a_message_changed_after_the_call_is_sent_as_it_was(
        self, way: Way, receiver: Receiver
    ) -> None:
        message: dict[str, Any] = {"text": "before", "to": [{"name": "ann"}]}
        with transaction.atomic():
            way.on_commit(message)
            message["text"] = "after"
            message["to"][0]["name"] = "bob"
            message["to"].append("eve")
        assert receiver.next() == {"text": "before", "to": [{"name": "ann"}]}

    def test_a_part_that_deepcopy_does_not_take(self, way: Way, receiver: Receiver) -> None:
        image = bytearray(b"as PostgreSQL returns a BinaryField")
        with transaction.atomic():
            way.on_commit({"image": memoryview(image)})
            image[:] = bytes(len(image))
        assert receiver.next() == {"image": b"as PostgreSQL returns a BinaryField"}

    @for_each("message", ["text", None, [1], {"at": {1}}, {1: "a key that is no str"}])
    def test_a_wrong_message_raises_at_the_call(
        self, way: Way, receiver: Receiver, message: Any
    ) -> None:
        with transaction.atomic():
            with pytest.raises(TypeError, match=r"message|dict"):
                way.on_commit(message)
            way.on_commit(MESSAGE)
        assert receiver.next() == MESSAGE

    def test_a_wrong_name_raises_at_the_call(self, sender: KafkaChannelLayer) -> None:
        with transaction.atomic():
            with pytest.raises(TypeError, match="valid"):
                send_on_commit("no legal name!!", MESSAGE)
            with pytest.raises(TypeError, match="valid"):
                group_send_on_commit("no legal name", MESSAGE)
            with pytest.raises(TypeError, match="user id"):
                user_send_on_commit("", MESSAGE)

    def test_exclude(self, sender: KafkaChannelLayer, receiver: Receiver) -> None:
        left_out = [receiver.channel]
        with transaction.atomic():
            group_send_on_commit("room", MESSAGE, exclude=left_out)
            user_send_on_commit(7, MESSAGE, exclude=left_out)
            all_send_on_commit(MESSAGE, exclude=left_out)
            left_out.clear()  # it counts as it was at the call
            group_send_on_commit("room", {"by": "group"}, exclude=["specific.0-ab!other"])
            user_send_on_commit(7, {"by": "user"}, exclude=set())
            all_send_on_commit({"by": "all"})
        received = sorted(receiver.next()["by"] for _ in range(3))
        assert received == ["all", "group", "user"]

    @pytest.mark.parametrize("wrong", [7, None, "\ud800"])
    def test_exclude_holds_names(self, sender: KafkaChannelLayer, wrong: Any) -> None:
        with transaction.atomic():
            with pytest.raises(TypeError, match="exclude must be a collection of channel names"):
                group_send_on_commit("room", MESSAGE, exclude=[wrong])
            with pytest.raises(TypeError, match="exclude must be a collection of channel names"):
                user_send_on_commit(7, MESSAGE, exclude=[wrong])

    def test_exclude_must_not_be_one_name(self, sender: KafkaChannelLayer) -> None:
        name = "specific.0-ab!other"
        with transaction.atomic():
            with pytest.raises(TypeError, match="exclude must be a collection of names"):
                group_send_on_commit("room", MESSAGE, exclude=name)
            with pytest.raises(TypeError, match="exclude must be a collection of names"):
                user_send_on_commit(7, MESSAGE, exclude=name)
            with pytest.raises(TypeError, match="exclude must be a collection of names"):
                all_send_on_commit(MESSAGE, exclude=name)


class TestTheLayer:
    def test_another_alias(self, way: Way, receiver: Receiver, make_layer: Layers) -> None:
        channel_layers.set("other", make_layer())
        channel_layers.set("default", None)
        try:
            with transaction.atomic():
                way.on_commit(MESSAGE, layer="other")
            assert receiver.next() == MESSAGE
        finally:
            del channel_layers.backends["other"]

    def test_the_layer_is_still_there_at_the_commit(
        self, way: Way, receiver: Receiver, sender: KafkaChannelLayer
    ) -> None:
        """The one of the call sends, even where the setting changes meanwhile."""
        with transaction.atomic():
            way.on_commit(MESSAGE)
            channel_layers.set("default", None)
            gc.collect()
        assert receiver.next() == MESSAGE

    @pytest.mark.parametrize(
        "call",
        [
            lambda: send_on_commit("specific.0-ab!c", MESSAGE),
            lambda: group_send_on_commit("room", MESSAGE),
            lambda: user_send_on_commit(7, MESSAGE),
            lambda: all_send_on_commit(MESSAGE),
        ],
        ids=["send", "group_send", "user_send", "all_send"],
    )
    @override_settings(
        CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    )
    def test_a_layer_of_another_kind(self, call: Callable[[], None]) -> None:
        assert get_channel_layer() is not None
        with pytest.raises(ImproperlyConfigured, match=r"'default'.*KafkaChannelLayer"):
            call()

    @override_settings(CHANNEL_LAYERS={})
    def test_no_layer(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"'default'.*None"):
            group_send_on_commit("room", MESSAGE)
        with pytest.raises(ImproperlyConfigured, match=r"'elsewhere'.*None"):
            group_send_on_commit("room", MESSAGE, layer="elsewhere")
