"""What goes wrong is said: by an exception that names the mend, or by a counter and a log line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import BrokerUnavailable, ProduceFailed, TopicError
from tests.cluster.workers.groups import topic_of
from tests.support.layers import Layers, next_message, stats_of
from tests.support.ports import kept_port
from tests.support.records import create_topic
from tests.support.waiting import wait_until_async


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nothing listens."""
    with kept_port() as port:
        yield f"127.0.0.1:{port}"


TIMINGS = Timings(start=0.5, start_step=0.1, close=0.2)


class TestBrokerThatIsAway:
    @pytest.fixture(autouse=True)
    def quick_starts(self, make_layer: Layers) -> None:
        """A start and a close wait for the broker; here it is known that none will answer."""
        make_layer.timings = TIMINGS

    async def test_a_message_that_no_broker_takes_is_counted(
        self, make_layer: Layers, nowhere: str, channel: str
    ) -> None:
        layer = make_layer(bootstrap_servers=nowhere, expiry=0.5)
        await layer.send(channel, {"n": 1})
        await wait_until_async(lambda: stats_of(layer)["failed"] == 1, "the message to fail")
        assert stats_of(layer)["dropped.produce"] == 1

    async def test_the_first_send_waits_for_one_start_not_for_two(
        self, make_layer: Layers, nowhere: str, channel: str
    ) -> None:
        make_layer.timings = timings = replace(TIMINGS, start=3.0)
        layer = make_layer(bootstrap_servers=nowhere)
        started = time.monotonic()
        await layer.send(channel, {"n": 1})
        assert time.monotonic() - started < 2 * timings.start
        # It counts what librdkafka has to tell as well, until that is told.
        await wait_until_async(lambda: layer.stats().queued == 1, "the one message to be queued")

    async def test_who_awaits_it_gets_the_error(
        self, make_layer: Layers, nowhere: str, channel: str
    ) -> None:
        layer = make_layer(bootstrap_servers=nowhere, expiry=0.5, await_produce=True)
        with pytest.raises(ProduceFailed, match=r"no broker took it before it expired"):
            await layer.send(channel, {"n": 1})

    async def test_a_first_receive_says_so(
        self, make_layer: Layers, nowhere: str, channel: str
    ) -> None:
        layer = make_layer(bootstrap_servers=nowhere)
        with pytest.raises(BrokerUnavailable, match=nowhere):
            await layer.receive(channel)

    @pytest.mark.parametrize("overflow", ["raise", "block", "discard"])
    async def test_a_full_queue(
        self, make_layer: Layers, nowhere: str, channel: str, overflow: str
    ) -> None:
        layer = make_layer(
            bootstrap_servers=nowhere,
            overflow=overflow,
            producer_config={
                "queue.buffering.max.messages": 3,
                # Only where it is waited for: none may fail before the last one is sent.
                **({"message.timeout.ms": 500} if overflow == "block" else {}),
            },
        )
        for number in range(3):
            await layer.send(channel, {"n": number})
        if overflow == "discard":
            await layer.send(channel, {"n": 3})
            assert stats_of(layer)["dropped.overflow"] == 1
            return
        if overflow == "raise":
            with pytest.raises(ChannelFull, match="queue is full"):
                await layer.send(channel, {"n": 3})
            return
        # It waits for room, which comes when the first ones have failed.
        await layer.send(channel, {"n": 3})
        await wait_until_async(lambda: stats_of(layer)["failed"] >= 3, "the others to have failed")


class TestTopics:
    async def test_a_missing_topic_is_named_where_none_may_be_created(
        self, make_layer: Layers, channel: str
    ) -> None:
        layer = make_layer(prefix="bare")
        await layer.send("other", {})
        strict = make_layer(prefix="bare", auto_create_topics=False)
        for attempt in (strict.send(channel, {}), strict.receive(channel)):
            with pytest.raises(TopicError, match="kafka_setup_topics") as error:
                await attempt
            assert topic_of(strict, channel) in str(error.value)
        # It works as soon as the topic is there.
        create_topic(strict.config.bootstrap_servers, topic_of(strict, channel))
        await strict.send(channel, {"n": 1})
        assert await next_message(strict, channel) == {"n": 1}

    async def test_a_message_that_is_too_large(self, make_layer: Layers, channel: str) -> None:
        layer = make_layer(worker_channels={channel: {"config": {"max.message.bytes": 5_000}}})
        with pytest.raises(MessageTooLarge, match=r"raise its max\.message\.bytes"):
            await layer.send(channel, {"data": "x" * 6_000})

    async def test_a_worker_channel_can_be_in_no_group(
        self, make_layer: Layers, channel: str
    ) -> None:
        layer = make_layer()
        for change in (layer.group_add, layer.group_discard, layer.user_add, layer.user_discard):
            with pytest.raises(ValueError, match="is a worker channel"):
                await change("name", channel)
