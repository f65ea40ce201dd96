"""Many event loops and threads on one layer, loops that end in between."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from asgiref.sync import async_to_sync

from kafka_layer.layer import KafkaChannelLayer
from tests.support.layers import Layers, begin_receive, next_message, next_messages
from tests.support.loops import left_waiting
from tests.support.waiting import wait_until

SENDS = 500


async def listen(layer: KafkaChannelLayer) -> str:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    return channel


class TestAsyncToSync:
    async def test_500_sends_in_a_row_from_a_thread(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer(capacity=SENDS)
        channel = await listen(there)

        def send() -> None:
            for number in range(SENDS):
                async_to_sync(here.group_send)("room", {"n": number})
                if number == SENDS // 2:
                    loop = asyncio.new_event_loop()
                    loop.run_until_complete(here.group_send("other", {}))
                    loop.close()

        await asyncio.to_thread(send)
        received = await next_messages(there, channel, SENDS)
        assert [each["n"] for each in received] == list(range(SENDS))

    async def test_awaiting_the_broker_each_time(self, make_layer: Layers) -> None:
        here = make_layer(await_produce=True)

        def send() -> list[int]:
            send_one = async_to_sync(here.group_send)
            return [position.offset for _ in range(50) if (position := send_one("room", {}))]

        offsets = await asyncio.to_thread(send)
        assert len(set(offsets)) == 50
        assert offsets == sorted(offsets)

    def test_a_whole_conversation_of_short_loops(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
        channel = async_to_sync(there.new_channel)()
        async_to_sync(there.group_add)("room", channel)
        for number in range(50):
            async_to_sync(here.group_send)("room", {"n": number})
            assert async_to_sync(next_message)(there, channel) == {"n": number}

    def test_timed_out_receives_in_between(self, make_layer: Layers) -> None:
        layer = make_layer()
        channel = async_to_sync(layer.new_channel)()
        for number in range(20):
            try:
                asyncio.run(asyncio.wait_for(layer.receive(channel), 0.001))
            except asyncio.TimeoutError:
                pass
            else:
                raise AssertionError("there was nothing to receive")
            async_to_sync(layer.send)(channel, {"n": number})
            assert asyncio.run(next_message(layer, channel)) == {"n": number}


class TestThreads:
    async def test_many_threads_send_at_once(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
        channel = await listen(there)
        receiving = asyncio.create_task(next_messages(there, channel, 800))

        def send(name: int) -> None:
            for number in range(100):
                here.group_send_sync("room", {"from": name, "n": number})

        with ThreadPoolExecutor(8) as executor:
            sending = [executor.submit(send, name) for name in range(8)]
            received = await receiving
        for future in sending:
            future.result()
        for name in range(8):
            assert [m["n"] for m in received if m["from"] == name] == list(range(100))

    async def test_a_receiver_on_one_loop_and_a_sender_on_another(self, make_layer: Layers) -> None:
        # A send to a channel of the same process is refused while that is full.
        roomy = {"capacity": 1000}
        for layers in ([make_layer(**roomy)] * 2, [make_layer(**roomy), make_layer(**roomy)]):
            here, there = layers
            channel = await listen(there)

            async def send_all(here: KafkaChannelLayer = here, channel: str = channel) -> None:
                for number in range(300):
                    await here.group_send("room", {"n": number})
                    await here.send(channel, {"direct": number})
                    if not number % 20:
                        await asyncio.sleep(0.002)

            receiving = asyncio.create_task(next_messages(there, channel, 600))
            await asyncio.to_thread(asyncio.run, send_all())
            received = await receiving
            assert [m["n"] for m in received if "n" in m] == list(range(300))
            assert [m["direct"] for m in received if "direct" in m] == list(range(300))
            await there.group_discard("room", channel)

    async def test_several_loops_receive_on_channels_of_their_own(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
        ready = threading.Barrier(5)

        async def receive_all() -> list[int]:
            channel = await listen(there)
            waiting = await begin_receive(there, channel)
            await asyncio.to_thread(ready.wait, 60)
            first = await waiting
            rest = await next_messages(there, channel, 199)
            return [each["n"] for each in (first, *rest)]

        with ThreadPoolExecutor(4) as executor:
            receiving = [executor.submit(lambda: asyncio.run(receive_all())) for _ in range(4)]
            await asyncio.to_thread(ready.wait, 60)
            for number in range(200):
                await here.group_send("room", {"n": number})
            for future in receiving:
                assert await asyncio.wrap_future(future) == list(range(200))

    async def test_a_loop_that_ends_under_its_receivers_harms_no_other(
        self, make_layer: Layers
    ) -> None:
        here, there = make_layer(), make_layer()
        channel = await listen(there)

        def a_loop_that_ends() -> None:
            loop = asyncio.new_event_loop()
            other = loop.run_until_complete(listen(there))
            left_waiting(there.receive(other), loop).close()

        await asyncio.to_thread(a_loop_that_ends)
        for number in range(50):
            await here.group_send("room", {"n": number})
            assert await next_message(there, channel) == {"n": number}

    def test_the_first_use_by_many_threads_at_once_starts_once(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer(capacity=100)
        channel = asyncio.run(listen(there))
        with ThreadPoolExecutor(20) as executor:
            for _ in executor.map(lambda n: here.group_send_sync("room", {"n": n}), range(20)):
                pass
        received = asyncio.run(next_messages(there, channel, 20))
        assert sorted(each["n"] for each in received) == list(range(20))
        names = [each.name for each in threading.enumerate()]
        wait_until(lambda: names.count("kafka-layer-producer") == 2, "one producer for each")
