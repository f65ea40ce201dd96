"""What starts when, and that all of it ends: with close, without it, with the broker gone."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import KafkaLayerError
from kafka_layer.kafka.reader import Reader
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.server.process import close_all
from tests.support.inspect import server_of
from tests.support.layers import Layers, layer_threads, next_message
from tests.support.patience import PatientLayer
from tests.support.ports import kept_port
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

# Seconds: the layers of these tests may take a second for each.
CLOSE_LIMIT = 15.0
START_LIMIT = 15.0


def wait_for_no_threads(of: str) -> None:
    try:
        wait_until(lambda: not layer_threads(), f"the threads of {of} to end")
    except TimeoutError as error:
        frames = sys._current_frames()
        stacks = [
            "".join([f"{each.name}:\n", *traceback.format_stack(frames[each.ident])])
            for each in threading.enumerate()
            if each.name in layer_threads() and each.ident in frames
        ]
        raise TimeoutError(f"{error}; these run:\n" + "\n".join(stacks)) from None


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """Every test of this file starts and ends without a thread of a layer."""
    wait_for_no_threads("earlier tests")
    yield
    gc.collect()
    wait_for_no_threads("this test")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class TestStart:
    def test_the_constructor_starts_nothing(self, make_layer: Layers) -> None:
        before = threading.enumerate()
        layers = [make_layer() for _ in range(10)]
        assert threading.enumerate() == before
        assert all(layer.stats().state == "idle" for layer in layers)

    async def test_a_process_that_only_sends_opens_no_consumer(self, make_layer: Layers) -> None:
        layer = make_layer()
        await layer.group_send("room", {})
        await layer.user_send("me", {})
        await layer.all_send({})
        layer.group_send_sync("room", {})
        await layer.send("specific.0-abcdef01!x", {})
        await wait_until_async(
            lambda: not any("start" in name for name in layer_threads()), "the start to be over"
        )
        assert [name for name in layer_threads() if "producer" in name]
        assert not [name for name in layer_threads() if "consumer" in name]
        await layer.close()

    async def test_a_layer_that_was_never_used_has_nothing_to_close(
        self, make_layer: Layers
    ) -> None:
        before = threading.enumerate()
        await make_layer().close()
        assert set(threading.enumerate()) <= set(before)


class TestEnd:
    async def test_close_ends_all_threads(self, make_layer: Layers) -> None:
        layer = make_layer()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"n": 1})
        assert await next_message(layer, channel) == {"n": 1}
        assert layer_threads()
        await layer.close()
        await wait_until_async(lambda: not layer_threads(), f"{layer_threads()} to end")

    async def test_layers_dropped_without_close_end_their_threads(self, make_layer: Layers) -> None:
        config = {**make_layer.backend.config, "prefix": make_layer.prefix}
        for _ in range(5):
            layer = PatientLayer(**config)
            await layer.group_send("room", {})
            del layer
            layer = PatientLayer(**config)
            await layer.group_add("room", await layer.new_channel())
            del layer
        gc.collect()
        await wait_until_async(lambda: not layer_threads(), f"{layer_threads()} to end")

    async def test_a_dropped_layer_delivers_what_it_sent(self, make_layer: Layers) -> None:
        there = make_layer(capacity=500)
        channel = await there.new_channel()
        await there.group_add("room", channel)
        layer = PatientLayer(**make_layer.backend.config, prefix=make_layer.prefix)
        for number in range(500):
            await layer.group_send("room", {"n": number})
        del layer
        for number in range(500):
            assert await next_message(there, channel) == {"n": number}
        await there.close()

    async def test_the_process_waits_for_one_that_closes_already(
        self, make_layer: Layers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layer = PatientLayer(**make_layer.backend.config, prefix=make_layer.prefix)
        await layer.group_send("room", {})
        backplane = server_of(layer).transport
        close = backplane.close
        begun, go_on = threading.Event(), threading.Event()

        def close_slowly(timeout: float) -> None:
            begun.set()
            go_on.wait(timeout)
            close(timeout)

        monkeypatch.setattr(backplane, "close", close_slowly)
        del layer, backplane  # a thread closes it now
        assert await asyncio.to_thread(begun.wait, PATIENCE), "nothing closed it"
        took = in_a_child(lambda: close_all(PATIENCE))
        assert took < PATIENCE / 2, "a child has nothing to wait for"
        at_exit = asyncio.create_task(asyncio.to_thread(close_all, PATIENCE))
        # It has nothing to do but to wait, for the whole of its time.
        done, _ = await asyncio.wait([at_exit], timeout=0.3)
        go_on.set()
        assert not done
        await asyncio.wait_for(at_exit, PATIENCE)

    async def test_closing_while_it_starts(self, make_layer: Layers) -> None:
        # A start gives up in the time of users, not in that of slow machines.
        make_layer.timings = Timings(start=Timings.start + 0.001)
        layer = make_layer()
        for delay in (0, 0.002, 0.01, 0.03, 0.05):
            starting = asyncio.create_task(layer.new_channel())
            await asyncio.sleep(delay)
            await layer.close()
            await asyncio.wait([starting], timeout=PATIENCE)
            assert starting.done()
            assert isinstance(starting.exception(), KafkaLayerError | None)
            # A start that the close overtook went on with the next server.
            await layer.close()
            await wait_until_async(lambda: not layer_threads(), f"{layer_threads()} to end")

    async def test_what_a_close_did_not_see_is_closed_as_well(
        self, make_layer: Layers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layer = make_layer()
        server = server_of(layer)
        start = Reader.start
        opened = threading.Event()

        def start_and_tell_late(*arguments: Any) -> Any:
            started = start(*arguments)
            opened.set()
            assert server.lifecycle.closed.result(PATIENCE) is None
            return started

        monkeypatch.setattr(Reader, "start", start_and_tell_late)
        starting = asyncio.create_task(layer.new_channel())
        await wait_until_async(opened.is_set, "the consumer to run")
        await layer.close()
        # The call went on with the next server; what the first one opened is closed by itself.
        assert not server.identity.owns_channel(await starting)
        await layer.close()
        await wait_until_async(lambda: not layer_threads(), f"{layer_threads()} to end")

    async def test_sending_while_it_closes(self, make_layer: Layers) -> None:
        layer = make_layer()
        await layer.new_channel()
        stop = threading.Event()
        errors: list[BaseException] = []

        def send() -> None:
            while not stop.is_set():
                try:
                    layer.group_send_sync("room", {})
                except KafkaLayerError:
                    pass  # closed just now: the next one starts anew
                except BaseException as error:
                    errors.append(error)
                    return

        thread = threading.Thread(target=send)
        thread.start()
        for _ in range(10):
            await asyncio.sleep(0.02)
            await layer.close()
        stop.set()
        thread.join()
        assert not errors
        await layer.close()


class Hasty(KafkaChannelLayer):
    timings = Timings(start=0.5, close=0.5)


async def test_ports_that_never_answer_and_that_refuse(silent_port: int) -> None:
    with kept_port() as refusing:
        await asyncio.gather(
            *(
                bounded_start_and_close(Hasty(bootstrap_servers=f"127.0.0.1:{port}"))
                for port in (silent_port, refusing)
            )
        )


def in_a_child(function: Callable[[], None]) -> float:
    """Run a function in a forked child and return the seconds that it took there."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if not child:
        try:
            started = time.monotonic()
            function()
            os.write(writing, repr(time.monotonic() - started).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        took = float(pipe.read())
    os.waitpid(child, 0)
    return took


async def bounded_start_and_close(layer: KafkaChannelLayer) -> None:
    started = time.monotonic()
    with pytest.raises(KafkaLayerError, match=r"127\.0\.0\.1"):
        await layer.new_channel()
    await layer.group_send("room", {})
    assert time.monotonic() - started < START_LIMIT
    started = time.monotonic()
    await layer.close()
    assert time.monotonic() - started < CLOSE_LIMIT
