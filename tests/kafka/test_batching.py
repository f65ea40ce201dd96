"""Records that a busy producer holds back: in order, within the queue's limit, none forgotten."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import cast

import pytest
from confluent_kafka import Producer

from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import ProduceFailed
from kafka_layer.kafka.batching import Hold, Pending
from kafka_layer.messages import Position
from kafka_layer.transport import QueueFull

LIMIT = 100_000
LOAD = 257
LEAST_LARGE = 10_000
MOST = 3_000


class Client:
    """Takes records as a producer does, up to ``room`` of them."""

    def __init__(self, on_their_way: int = 0) -> None:
        self.on_their_way = on_their_way
        self.taken: list[bytes] = []
        self.expired: list[Pending] = []
        self.room = 1_000_000
        self.holds = 0

    def __len__(self) -> int:
        return self.on_their_way

    def on_hold(self) -> None:
        self.holds += 1

    def take(self, client: Producer, pending: Pending) -> None:
        assert client is cast(Producer, self)
        if len(self.taken) >= self.room:
            raise QueueFull
        self.taken.append(pending[1])


def pending(value: bytes, ticket: Ticket[Position] | None = None) -> Pending:
    return "topic", value, "room", -1, (), ticket


def holding(
    client: Client,
    limit: int = LIMIT,
    timeout: float = 60.0,
    take: Callable[[Producer, Pending], None] | None = None,
) -> Hold:
    return Hold(limit, timeout, take or client.take, client.on_hold, client.expired.append)


def put(hold: Hold, client: Client, *values: bytes) -> None:
    for value in values:
        hold.put(cast(Producer, client), pending(value))


def release(hold: Hold, client: Client) -> None:
    hold.release(cast(Producer, client))


class TestUnderNoLoad:
    def test_a_record_goes_at_once(self) -> None:
        client = Client(on_their_way=LOAD - 1)
        hold = holding(client)
        put(hold, client, b"1", b"2")
        assert client.taken == [b"1", b"2"]
        assert not len(hold)
        assert not client.holds

    def test_a_full_client_refuses_it(self) -> None:
        client = Client()
        client.room = 0
        with pytest.raises(QueueFull):
            put(holding(client), client, b"1")


class TestUnderLoad:
    @pytest.fixture
    def client(self) -> Client:
        return Client(on_their_way=LOAD)

    def test_records_wait_until_they_are_released(self, client: Client) -> None:
        hold = holding(client)
        put(hold, client, b"1", b"2")
        assert client.taken == []
        assert len(hold) == 2
        release(hold, client)
        assert client.taken == [b"1", b"2"]
        assert not len(hold)

    def test_the_first_that_waits_is_told(self, client: Client) -> None:
        hold = holding(client)
        put(hold, client, b"1", b"2", b"3")
        assert client.holds == 1
        release(hold, client)
        put(hold, client, b"4", b"5")
        assert client.holds == 2

    def test_none_passes_one_that_waits_when_the_load_is_over(self, client: Client) -> None:
        hold = holding(client)
        put(hold, client, b"1")
        client.on_their_way = 0
        put(hold, client, b"2")
        assert client.taken == []
        release(hold, client)
        put(hold, client, b"3")
        assert client.taken == [b"1", b"2", b"3"]

    def test_so_many_wait_and_no_more(self, client: Client) -> None:
        hold = holding(client)
        values = [b"%d" % number for number in range(MOST)]
        put(hold, client, *values[:-1])
        assert client.taken == []
        put(hold, client, values[-1])
        assert client.taken == values

    def test_an_awaited_one_takes_those_before_it_along(self, client: Client) -> None:
        hold = holding(client)
        put(hold, client, b"1")
        hold.put(cast(Producer, client), pending(b"2", Ticket()))
        assert client.taken == [b"1", b"2"]

    def test_a_large_one_takes_those_before_it_along(self, client: Client) -> None:
        hold = holding(client)
        large = b"x" * LEAST_LARGE
        put(hold, client, b"1", large[1:])
        assert client.taken == []
        put(hold, client, large)
        assert client.taken == [b"1", large[1:], large]

    def test_those_that_wait_count_against_the_limit(self, client: Client) -> None:
        hold = holding(client, limit=LOAD + 2)
        put(hold, client, b"1", b"2")
        with pytest.raises(QueueFull):
            put(hold, client, b"3")
        client.on_their_way -= 1
        put(hold, client, b"3")
        release(hold, client)
        assert client.taken == [b"1", b"2", b"3"]


class TestAClientThatIsFull:
    def test_nothing_more_is_accepted_until_it_took_all_that_wait(self) -> None:
        client = Client(on_their_way=LOAD)
        client.room = 1
        hold = holding(client)
        put(hold, client, b"1", b"2", b"3")
        release(hold, client)
        assert client.taken == [b"1"]
        with pytest.raises(QueueFull):
            put(hold, client, b"4")
        client.room = 2
        with pytest.raises(QueueFull):
            put(hold, client, b"4")
        client.room = 10
        put(hold, client, b"4")
        release(hold, client)
        assert client.taken == [b"1", b"2", b"3", b"4"]

    def test_what_waits_for_it_for_too_long_is_reported(self) -> None:
        client = Client(on_their_way=LOAD)
        client.room = 0
        hold = holding(client, timeout=0.0)
        put(hold, client, b"1", b"2")
        release(hold, client)
        assert [each[1] for each in client.expired] == [b"1", b"2"]
        assert not len(hold)
        client.room = 1
        put(hold, client, b"3")
        release(hold, client)
        assert client.taken == [b"3"]


class TestCallbacks:
    def test_a_record_that_is_sent_while_others_are_released_comes_behind_them(self) -> None:
        client = Client(on_their_way=LOAD)

        def take(taker: Producer, record: Pending) -> None:
            client.take(taker, record)
            if record[1] == b"1":
                hold.put(taker, pending(b"3", Ticket()))

        hold = holding(client, take=take)
        put(hold, client, b"1", b"2")
        release(hold, client)
        assert client.taken == [b"1", b"2", b"3"]

    def test_none_passes_the_last_one_while_that_is_handed_over(self) -> None:
        client = Client(on_their_way=LOAD)

        def take(taker: Producer, record: Pending) -> None:
            if record[1] == b"1":
                client.on_their_way = 0
                put(hold, client, b"2")
            client.take(taker, record)

        hold = holding(client, take=take)
        put(hold, client, b"1")
        release(hold, client)
        assert client.taken == [b"1", b"2"]

    def test_an_awaited_one_that_comes_as_a_release_ends_does_not_wait_for_the_next(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = Client(on_their_way=LOAD)
        hold = holding(client)
        drain = hold._drain
        late = [pending(b"2", Ticket())]

        def drain_and_be_late(taker: Producer) -> bool:
            drained = drain(taker)
            if late:
                hold.put(taker, late.pop())
            return drained

        monkeypatch.setattr(hold, "_drain", drain_and_be_late)
        put(hold, client, b"1")
        release(hold, client)
        assert client.taken == [b"1", b"2"]

    def test_one_that_cannot_be_handed_over_does_not_keep_the_others(self) -> None:
        client = Client(on_their_way=LOAD)

        def take(taker: Producer, record: Pending) -> None:
            if record[1] == b"1":
                raise ValueError("a bug")
            client.take(taker, record)

        hold = holding(client, take=take)
        put(hold, client, b"1", b"2")
        with pytest.raises(ValueError, match="a bug"):
            release(hold, client)
        release(hold, client)
        assert client.taken == [b"2"]


class TestGivingUp:
    def test_what_waits_is_told_once(self) -> None:
        client = Client(on_their_way=LOAD)
        hold = holding(client)
        put(hold, client, b"1", b"2")
        assert [each[1] for each in hold.give_up(0.1)] == [b"1", b"2"]
        assert hold.give_up(0.1) == []
        release(hold, client)
        assert client.taken == []

    def test_by_a_callback_leaves_the_record_in_hand_to_who_hands_it_over(self) -> None:
        client = Client(on_their_way=LOAD)
        given_up: list[bytes] = []

        def take(taker: Producer, record: Pending) -> None:
            given_up.extend(each[1] for each in hold.give_up(0.0))
            client.take(taker, record)

        hold = holding(client, take=take)
        put(hold, client, b"1", b"2", b"3")
        release(hold, client)
        assert client.taken == [b"1"]
        assert given_up == [b"2", b"3"]
        assert not len(hold)

    def test_no_record_is_accepted_afterwards(self) -> None:
        client = Client(on_their_way=LOAD)
        hold = holding(client)
        hold.give_up(0.1)
        with pytest.raises(ProduceFailed, match="closed"):
            put(hold, client, b"1")
        assert not len(hold)


@pytest.mark.parametrize("limit", [LIMIT, LOAD + 50])
def test_many_threads_keep_their_order_and_lose_nothing(limit: int) -> None:
    client = Client(on_their_way=LOAD)
    hold = holding(client, limit)
    sending = threading.Event()
    senders = 4
    each = 5_000

    def send(sender: int) -> None:
        sending.wait(10)
        for number in range(each):
            while True:
                try:
                    put(hold, client, b"%d %d" % (sender, number))
                    break
                except QueueFull:
                    release(hold, client)
            # In and out of load, so that some go at once.
            client.on_their_way = LOAD if number % 7 else 0

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    sending.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a sender did not end within 60 s"
    release(hold, client)
    received: dict[int, deque[int]] = {sender: deque() for sender in range(senders)}
    for value in client.taken:
        sender, number = map(int, value.split())
        received[sender].append(number)
    assert all(list(numbers) == list(range(each)) for numbers in received.values())
