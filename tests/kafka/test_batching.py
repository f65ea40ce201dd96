"""Records that a busy producer holds back: in order, within the queue's limit, none forgotten."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from confluent_kafka import KafkaError, Producer
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import LayerClosed
from kafka_layer.kafka.batching import Batcher, BatcherState
from kafka_layer.kafka.pending import VALUE, Pending, UnknownPartition
from kafka_layer.kafka.unknown_partitions import UnknownPartitions
from kafka_layer.messages import Position
from kafka_layer.transport import QueueFull

LIMIT = 100_000
LOAD = 257
LEAST_LARGE = 10_000
MOST = 3_000
AGES = 3_600.0
PARTITION = 3  # its place in a Pending
NEW = 10  # the number of a partition that clients do not know yet

PASSING, HOLDING, FULL = BatcherState.PASSING, BatcherState.HOLDING, BatcherState.FULL
CLOSING, CLOSED = BatcherState.CLOSING, BatcherState.CLOSED


class Client:
    """Takes records as librdkafka does, up to ``room``; a ``PendingSink`` and its client."""

    def __init__(self, on_their_way: int = 0) -> None:
        self.on_their_way = on_their_way
        self.taken: list[bytes] = []
        self.rejected: list[bytes] = []
        self.room = 1_000_000
        self.partitions = 10
        self.asked: list[str] = []
        self.before_taking: Callable[[bytes], None] = lambda value: None
        self.after_taking: Callable[[bytes], None] = lambda value: None
        self.after_counting: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        counted = self.on_their_way
        self.after_counting()
        return counted

    @property
    def current(self) -> Producer:
        return cast(Producer, self)

    def enqueue(self, client: Producer, pending: Pending) -> None:
        self.before_taking(pending[VALUE])
        if len(self.taken) >= self.room:
            raise QueueFull
        if pending[PARTITION] >= self.partitions:
            raise UnknownPartition
        self.taken.append(pending[VALUE])
        self.after_taking(pending[VALUE])

    def ask_for_partitions(self, topic: str) -> None:
        self.asked.append(topic)

    def reject(self, pending: Pending, error: KafkaError) -> None:
        self.rejected.append(pending[VALUE])


def pending(value: bytes, ticket: Ticket[Position] | None = None, partition: int = -1) -> Pending:
    return "topic", value, "room", partition, (), ticket


def batching(
    client: Client,
    limit: int = LIMIT,
    timeout: float = AGES,
    roused: threading.Event | None = None,
    unknown: UnknownPartitions | None = None,
) -> Batcher:
    if unknown is None:
        unknown = unknown_partitions(client)
    return Batcher(client, limit, timeout, unknown, roused or threading.Event())


def unknown_partitions(
    client: Client,
    patience: float = AGES,
    pause: float = 0.0,
    roused: threading.Event | None = None,
) -> UnknownPartitions:
    return UnknownPartitions(client, patience, pause, roused or threading.Event())


def put(batcher: Batcher, *values: bytes) -> None:
    for value in values:
        batcher.put(pending(value))


def put_into(batcher: Batcher, partition: int, *values: bytes) -> None:
    for value in values:
        batcher.put(pending(value, partition=partition))


@pytest.fixture
def loaded() -> Client:
    """A client with so many records on their way that more are held back."""
    return Client(on_their_way=LOAD)


class TestWithoutLoad:
    def test_a_record_is_handed_over_at_once(self) -> None:
        client, roused = Client(on_their_way=LOAD - 1), threading.Event()
        batcher = batching(client, roused=roused)
        put(batcher, b"1", b"2")
        assert client.taken == [b"1", b"2"]
        assert not len(batcher)
        assert not roused.is_set()

    def test_a_full_client_refuses_a_record(self) -> None:
        client = Client()
        client.room = 0
        with pytest.raises(QueueFull):
            put(batching(client), b"1")


class TestUnderLoad:
    def test_records_wait_until_they_are_released(self, loaded: Client) -> None:
        batcher = batching(loaded)
        put(batcher, b"1", b"2")
        assert loaded.taken == []
        assert len(batcher) == 2
        batcher.release()
        assert loaded.taken == [b"1", b"2"]
        assert not len(batcher)

    def test_the_thread_is_roused_for_the_first_record_held_back(self, loaded: Client) -> None:
        roused = threading.Event()
        batcher = batching(loaded, roused=roused)
        for first, second in ((b"1", b"2"), (b"3", b"4")):
            put(batcher, first)
            assert roused.is_set()
            roused.clear()
            put(batcher, second)
            assert not roused.is_set()
            batcher.release()

    def test_no_record_overtakes_a_held_one_when_the_load_is_over(self, loaded: Client) -> None:
        batcher = batching(loaded)
        put(batcher, b"1")
        loaded.on_their_way = 0
        put(batcher, b"2")
        assert loaded.taken == []
        batcher.release()
        put(batcher, b"3")
        assert loaded.taken == [b"1", b"2", b"3"]

    def test_3000_records_are_released_at_once(self, loaded: Client) -> None:
        batcher = batching(loaded)
        values = [b"%d" % number for number in range(MOST)]
        put(batcher, *values[:-1])
        assert loaded.taken == []
        put(batcher, values[-1])
        assert loaded.taken == values

    def test_an_awaited_record_takes_the_held_ones_along(self, loaded: Client) -> None:
        batcher = batching(loaded)
        put(batcher, b"1")
        batcher.put(pending(b"2", Ticket()))
        assert loaded.taken == [b"1", b"2"]

    def test_a_large_record_takes_the_held_ones_along(self, loaded: Client) -> None:
        batcher = batching(loaded)
        large = b"x" * LEAST_LARGE
        put(batcher, b"1", large[1:])
        assert loaded.taken == []
        put(batcher, large)
        assert loaded.taken == [b"1", large[1:], large]

    def test_held_records_count_against_the_limit(self, loaded: Client) -> None:
        batcher = batching(loaded, limit=LOAD + 2)
        put(batcher, b"1", b"2")
        with pytest.raises(QueueFull):
            put(batcher, b"3")
        loaded.on_their_way -= 1
        put(batcher, b"3")
        batcher.release()
        assert loaded.taken == [b"1", b"2", b"3"]

    def test_one_that_another_thread_passes_on_counts_once(self, loaded: Client) -> None:
        batcher = batching(loaded, limit=LOAD + 2)
        put(batcher, b"1")
        refused: list[QueueFull] = []

        def send_another() -> None:
            try:
                put(batcher, b"2")
            except QueueFull as error:
                refused.append(error)

        sending = threading.Thread(target=send_another)

        def let_it_send(value: bytes) -> None:
            loaded.after_taking = lambda value: None
            loaded.on_their_way += 1
            sending.start()
            # It waits for this thread, unless it is refused.
            sending.join(0.2)

        loaded.after_taking = let_it_send
        batcher.release()
        sending.join(60)
        assert not refused
        batcher.release()
        assert loaded.taken == [b"1", b"2"]

    def test_one_that_leaves_while_a_sender_counts_is_not_missed(self, loaded: Client) -> None:
        batcher = batching(loaded, limit=LOAD + 1)
        put(batcher, b"1")

        def leave() -> None:
            loaded.after_counting = lambda: None
            batcher.release()
            loaded.on_their_way += 1

        loaded.after_counting = leave
        with pytest.raises(QueueFull):
            put(batcher, b"2")
        assert loaded.taken == [b"1"]


class TestAFullClient:
    def test_no_record_is_accepted_until_the_client_took_all_held_ones(
        self, loaded: Client
    ) -> None:
        loaded.room = 1
        batcher = batching(loaded)
        put(batcher, b"1", b"2", b"3")
        batcher.release()
        assert loaded.taken == [b"1"]
        with pytest.raises(QueueFull):
            put(batcher, b"4")
        loaded.room = 2
        with pytest.raises(QueueFull):
            put(batcher, b"4")
        loaded.room = 10
        put(batcher, b"4")
        batcher.release()
        assert loaded.taken == [b"1", b"2", b"3", b"4"]

    def test_records_that_waited_too_long_for_it_are_rejected(self, loaded: Client) -> None:
        loaded.room = 0
        batcher = batching(loaded, timeout=0.0)
        put(batcher, b"1", b"2")
        batcher.release()
        assert loaded.rejected == [b"1", b"2"]
        assert not len(batcher)
        loaded.room = 1
        put(batcher, b"3")
        batcher.release()
        assert loaded.taken == [b"3"]


class TestCallbacks:
    def test_a_record_sent_while_others_are_released_comes_behind_them(
        self, loaded: Client
    ) -> None:
        def send_another(value: bytes) -> None:
            if value == b"1":
                batcher.put(pending(b"3", Ticket()))

        loaded.before_taking = send_another
        batcher = batching(loaded)
        put(batcher, b"1", b"2")
        batcher.release()
        assert loaded.taken == [b"1", b"2", b"3"]

    def test_a_record_sent_then_is_refused_where_the_queue_is_full(self, loaded: Client) -> None:
        def send_another(value: bytes) -> None:
            with pytest.raises(QueueFull):
                put(batcher, b"2")

        loaded.before_taking = send_another
        batcher = batching(loaded, limit=LOAD + 1)
        put(batcher, b"1")
        batcher.release()
        assert loaded.taken == [b"1"]

    def test_no_record_overtakes_the_last_one_while_that_is_handed_over(
        self, loaded: Client
    ) -> None:
        def send_another(value: bytes) -> None:
            if value == b"1":
                loaded.on_their_way = 0
                put(batcher, b"2")

        loaded.before_taking = send_another
        batcher = batching(loaded)
        put(batcher, b"1")
        batcher.release()
        assert loaded.taken == [b"1", b"2"]

    def test_a_record_whose_hand_over_raises_does_not_keep_the_others(self, loaded: Client) -> None:
        def fail(value: bytes) -> None:
            if value == b"1":
                raise ValueError("a bug")

        loaded.before_taking = fail
        batcher = batching(loaded)
        put(batcher, b"1", b"2")
        with pytest.raises(ValueError, match="a bug"):
            batcher.release()
        batcher.release()
        assert loaded.taken == [b"2"]


class TestUnknownPartitions:
    """Records of partitions that the client does not know yet; they were reported as failed."""

    def test_they_wait_in_order_and_others_do_not(self) -> None:
        client, roused = Client(), threading.Event()
        unknown = unknown_partitions(client, roused=roused)
        batcher = batching(client, unknown=unknown)
        put_into(batcher, NEW, b"1")
        assert roused.is_set()
        put_into(batcher, NEW, b"2")
        put_into(batcher, 0, b"other")
        assert client.taken == [b"other"]
        assert len(batcher) == 2
        unknown.hand_over()
        assert client.asked == ["topic"]
        client.partitions = NEW + 1
        # The client has learnt of it, and the thread has not come round yet.
        put_into(batcher, NEW, b"3")
        unknown.hand_over()
        put_into(batcher, NEW, b"4")
        assert client.taken == [b"other", b"1", b"2", b"3", b"4"]
        assert not client.rejected
        assert not len(batcher)

    def test_held_back_records_go_behind_them(self, loaded: Client) -> None:
        unknown = unknown_partitions(loaded)
        batcher = batching(loaded, unknown=unknown)
        put_into(batcher, NEW, b"1")
        batcher.release()
        put_into(batcher, NEW, b"2")
        put_into(batcher, 0, b"other")
        loaded.partitions = NEW + 1
        batcher.release()
        assert loaded.taken == [b"other"]
        unknown.hand_over()
        assert loaded.taken == [b"other", b"1", b"2"]

    def test_those_that_the_client_took_and_reported_go_before_those_that_it_refused(self) -> None:
        client = Client()
        unknown = unknown_partitions(client)
        batcher = batching(client, unknown=unknown)
        put_into(batcher, NEW, b"3")
        unknown.hand_over()
        assert batcher.keep_reported(pending(b"1", partition=NEW))

        def report_another(value: bytes) -> None:
            client.before_taking = lambda value: None
            assert batcher.keep_reported(pending(b"2", partition=NEW))

        client.before_taking = report_another
        put_into(batcher, NEW, b"4")
        unknown.hand_over()
        client.partitions = NEW + 1
        unknown.hand_over()
        assert client.taken == [b"1", b"2", b"3", b"4"]

    def test_one_that_stays_unknown_is_rejected_in_time(self) -> None:
        client = Client()
        unknown = unknown_partitions(client, patience=0.0)
        batcher = batching(client, unknown=unknown)
        put_into(batcher, NEW, b"1", b"2")
        unknown.hand_over()
        assert client.rejected == [b"1", b"2"]
        assert not len(batcher)

    def test_those_beyond_the_limit_are_rejected_at_once(self) -> None:
        client = Client()
        batcher = batching(client)
        put_into(batcher, NEW, *[b"%d" % number for number in range(1_001)])
        assert client.rejected == [b"1000"]

    def test_a_full_client_takes_them_later(self) -> None:
        client = Client()
        unknown = unknown_partitions(client, patience=0.0)
        batcher = batching(client, unknown=unknown)
        put_into(batcher, NEW, b"1", b"2")
        client.room = 0
        unknown.hand_over()
        client.room, client.partitions = 10, NEW + 1
        unknown.hand_over()
        assert client.taken == [b"1", b"2"]

    def test_brokers_are_not_asked_in_every_round(self) -> None:
        client = Client()
        unknown = unknown_partitions(client, pause=AGES)
        put_into(batching(client, unknown=unknown), NEW, b"1")
        for _ in range(3):
            unknown.hand_over()
        assert client.asked == ["topic"]

    def test_closing_rejects_them_once(self) -> None:
        client = Client()
        unknown = unknown_partitions(client)
        batcher = batching(client, unknown=unknown)
        put_into(batcher, NEW, b"1", b"2")
        batcher.close(0.1)
        batcher.close(0.1)
        unknown.hand_over()
        assert client.rejected == [b"1", b"2"]
        assert not len(batcher)

    def test_closing_by_a_callback_rejects_the_one_in_hand(self) -> None:
        client = Client()
        unknown = unknown_partitions(client)
        batcher = batching(client, unknown=unknown)
        put_into(batcher, NEW, b"1", b"2")
        client.before_taking = lambda value: batcher.close(0.1)
        unknown.hand_over()
        assert sorted(client.rejected) == [b"1", b"2"]
        assert not len(batcher)


class TestRoom:
    """Senders that find the queue full wait for room, and get it in the order of their calls."""

    def test_as_many_senders_are_admitted_as_there_is_room_for(self) -> None:
        client = Client()
        batcher = batching(client, limit=10)
        client.on_their_way = 10
        tickets = [batcher.when_room() for _ in range(3)]
        batcher.admit()
        assert [each.done for each in tickets] == [False, False, False]
        client.on_their_way = 8
        batcher.admit()
        assert [each.done for each in tickets] == [True, True, False]

    def test_senders_that_did_not_wait_are_refused_while_others_wait(self) -> None:
        client = Client()
        batcher = batching(client, limit=10)
        batcher.when_room()
        batcher.when_room()
        client.on_their_way = 9
        batcher.admit()
        with pytest.raises(QueueFull):
            put(batcher, b"new")
        batcher.put(pending(b"waited"), waited=True)
        batcher.admit()
        put(batcher, b"new")
        assert client.taken == [b"waited", b"new"]

    def test_a_sender_that_found_the_queue_full_again_is_the_first(self) -> None:
        batcher = batching(Client())
        second, first = batcher.when_room(), batcher.when_room(waited=True)
        order: list[str] = []
        second.on_done(lambda _: order.append("second"))
        first.on_done(lambda _: order.append("first"))
        batcher.admit()
        assert order == ["first", "second"]

    def test_no_sender_is_admitted_while_held_records_wait_for_a_full_client(
        self, loaded: Client
    ) -> None:
        batcher = batching(loaded)
        loaded.room = 0
        put(batcher, b"1")
        batcher.release()
        waiting = batcher.when_room()
        batcher.admit()
        assert not waiting.done
        loaded.room = 1
        batcher.release()
        batcher.admit()
        assert waiting.done

    def test_of_a_client_full_of_bytes_as_many_may_try_as_records_were_written(self) -> None:
        client = Client(on_their_way=5)
        client.room = 0
        batcher = batching(client)
        with pytest.raises(QueueFull):
            put(batcher, b"1")
        tickets = [batcher.when_room() for _ in range(3)]
        batcher.admit()
        assert not any(each.done for each in tickets)
        client.on_their_way = 3
        batcher.admit()
        assert [each.done for each in tickets] == [True, True, False]

    def test_an_idle_client_that_refuses_a_record_is_tried_again(self) -> None:
        client = Client()
        client.room = 0
        batcher = batching(client)
        with pytest.raises(QueueFull):
            put(batcher, b"larger than the whole queue")
        waiting = batcher.when_room()
        batcher.admit()
        assert waiting.done

    def test_senders_that_wait_are_told_of_the_end(self) -> None:
        batcher = batching(Client())
        before = batcher.when_room()
        batcher.stop_taking()
        for ticket in (before, batcher.when_room()):
            assert isinstance(ticket.error, LayerClosed)


class TestClosing:
    def test_held_records_are_rejected_once(self, loaded: Client) -> None:
        batcher = batching(loaded)
        put(batcher, b"1", b"2")
        batcher.close(0.1)
        assert loaded.rejected == [b"1", b"2"]
        batcher.close(0.1)
        batcher.release()
        assert loaded.rejected == [b"1", b"2"]
        assert loaded.taken == []

    def test_held_records_can_be_released_between_the_last_send_and_the_end(
        self, loaded: Client
    ) -> None:
        batcher = batching(loaded)
        put(batcher, b"1")
        batcher.stop_taking()
        batcher.release()
        batcher.close(0.1)
        assert loaded.taken == [b"1"]
        assert not loaded.rejected

    def test_by_a_callback_leaves_the_record_in_hand_to_the_thread_that_hands_it_over(
        self, loaded: Client
    ) -> None:
        loaded.before_taking = lambda value: batcher.close(0.0)
        batcher = batching(loaded)
        put(batcher, b"1", b"2", b"3")
        batcher.release()
        assert loaded.taken == [b"1"]
        assert loaded.rejected == [b"2", b"3"]
        assert not len(batcher)

    @pytest.mark.parametrize("on_their_way", [0, LOAD])
    def test_no_record_is_accepted_afterwards(self, on_their_way: int) -> None:
        client = Client(on_their_way)
        batcher = batching(client)
        batcher.stop_taking()
        with pytest.raises(LayerClosed, match="closed"):
            put(batcher, b"1")
        assert not len(batcher)
        assert not client.taken


def test_each_row_of_the_table_of_states() -> None:
    client = Client()
    batcher = batching(client)
    seen = [batcher.state]

    def then(event: Callable[[], object]) -> None:
        with contextlib.suppress(QueueFull):
            event()
        seen.append(batcher.state)

    then(lambda: put(batcher, b"1"))
    client.on_their_way = LOAD
    then(lambda: put(batcher, b"2"))
    then(batcher.release)
    then(lambda: put(batcher, b"3"))
    client.room = 0
    then(batcher.release)
    then(lambda: put(batcher, b"4"))
    client.room = 100
    then(batcher.release)
    then(batcher.stop_taking)
    then(lambda: batcher.close(0.1))
    assert seen == [
        PASSING,
        PASSING,
        HOLDING,
        PASSING,
        HOLDING,
        FULL,
        FULL,
        PASSING,
        CLOSING,
        CLOSED,
    ]
    client, batcher = (full := Client(LOAD)), batching(full, timeout=0.0)
    client.room = 0
    put(batcher, b"5")
    batcher.release()
    assert (batcher.state, client.rejected) == (PASSING, [b"5"])


# Any event may leave the state as it is.
TRANSITIONS = {
    (PASSING, HOLDING),
    (HOLDING, PASSING),
    (HOLDING, FULL),
    (FULL, PASSING),
    # A put() into a full queue drains it first, and is then held back itself.
    (FULL, HOLDING),
    # A put() of what is awaited is held back, and drains at once; the client takes none.
    (PASSING, FULL),
    (PASSING, CLOSING),
    (HOLDING, CLOSING),
    (FULL, CLOSING),
    (CLOSING, CLOSED),
}


class BatcherMachine(RuleBasedStateMachine):
    """One thread does what it likes: nothing is lost, disordered, or taken after the end."""

    @initialize(limit=st.integers(1, 400), timeout=st.sampled_from([0.0, AGES]))
    def begin(self, limit: int, timeout: float) -> None:
        self.client = Client()
        self.batcher = batching(self.client, limit, timeout)
        self.accepted: list[bytes] = []
        self.waiting: list[Ticket[None]] = []
        self.state = self.batcher.state
        self.number = 0

    @rule(awaited=st.booleans(), waited=st.booleans(), many=st.sampled_from([1, 1, 1, 50]))
    def put(self, awaited: bool, waited: bool, many: int) -> None:
        for _ in range(many):
            self.number += 1
            value = b"%d" % self.number
            before = self.batcher.has_waiting
            try:
                self.batcher.put(pending(value, Ticket() if awaited else None), waited)
            except QueueFull:
                continue
            except LayerClosed:
                assert self.state in (CLOSING, CLOSED)
                continue
            assert self.state not in (CLOSING, CLOSED)
            assert waited or not before
            self.accepted.append(value)

    @rule(load=st.sampled_from([0, 1, LOAD - 1, LOAD, 10_000]))
    def let_time_pass(self, load: int) -> None:
        self.client.on_their_way = load

    @rule(room=st.integers(0, 60))
    def give_room(self, room: int) -> None:
        self.client.room = len(self.client.taken) + room

    @rule()
    def release(self) -> None:
        self.batcher.release()

    @rule(waited=st.booleans())
    def wait_for_room(self, waited: bool) -> None:
        self.waiting.insert(0 if waited else len(self.waiting), self.batcher.when_room(waited))

    @rule()
    def admit(self) -> None:
        self.batcher.admit()

    @rule()
    @precondition(lambda self: self.number > 20)
    def stop_taking(self) -> None:
        self.batcher.stop_taking()

    @rule()
    @precondition(lambda self: self.state is CLOSING)
    def close(self) -> None:
        self.batcher.close(0.1)

    @invariant()
    def nothing_is_lost_or_disordered(self) -> None:
        gone = set(self.client.rejected)
        taken = self.client.taken
        held = len(self.batcher)
        assert len(self.accepted) == len(taken) + len(gone) + held
        kept = [each for each in self.accepted if each not in gone]
        assert taken == kept[: len(taken)]

    @invariant()
    def senders_are_admitted_in_their_order(self) -> None:
        done = [each.done for each in self.waiting]
        assert done == sorted(done, reverse=True)
        self.waiting = [each for each in self.waiting if not each.done]

    @invariant()
    def the_state_moves_as_the_table_says(self) -> None:
        before, self.state = self.state, self.batcher.state
        assert before is self.state or (before, self.state) in TRANSITIONS


TestBatcherMachine = BatcherMachine.TestCase


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads change places as often as the interpreter lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_together(count: int, run: Callable[[int], None]) -> None:
    """Run a function in threads that begin together, each with its number."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> None:
        barrier.wait(60)
        run(number)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread did not end within 60 s"


@contextlib.contextmanager
def serving(batcher: Batcher, serve: Callable[[bool], None]) -> Iterator[None]:
    """Call a function in another thread until nothing is held; tell it whether the block ended."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set() or len(batcher):
            serve(ended.is_set())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
    assert not thread.is_alive(), f"{len(batcher)} records are held after 60 s"


def assert_in_order(values: list[bytes], senders: int, each: int) -> None:
    """Require that each sender's numbers came once and in order."""
    numbers: dict[int, list[int]] = {sender: [] for sender in range(senders)}
    for value in values:
        sender, number = map(int, value.split())
        numbers[sender].append(number)
    assert numbers == {sender: list(range(each)) for sender in range(senders)}


@pytest.mark.usefixtures("switching")
class TestManyThreads:
    @pytest.mark.parametrize("limit", [LIMIT, LOAD + 50])
    def test_each_keeps_its_order_and_loses_nothing(self, limit: int, loaded: Client) -> None:
        batcher = batching(loaded, limit)

        def send(sender: int) -> None:
            for number in range(2_000):
                while True:
                    try:
                        put(batcher, b"%d %d" % (sender, number))
                        break
                    except QueueFull:
                        batcher.release()
                # In and out of load, so that some go at once.
                loaded.on_their_way = LOAD if number % 7 else 0

        run_together(4, send)
        batcher.release()
        assert_in_order(loaded.taken, 4, 2_000)

    def test_each_keeps_its_order_while_the_client_forgets_and_learns_a_partition(
        self, loaded: Client
    ) -> None:
        unknown = unknown_partitions(loaded)
        batcher = batching(loaded, unknown=unknown)

        def send(sender: int) -> None:
            for number in range(2_000):
                put_into(batcher, NEW, b"%d %d" % (sender, number))
                loaded.on_their_way = LOAD if number % 4 == 0 else 0
                while len(batcher) > 900:
                    time.sleep(0)

        def serve(ended: bool) -> None:
            loaded.partitions = NEW + 1 if ended or loaded.partitions == NEW else NEW
            batcher.release()
            unknown.hand_over()
            batcher.admit()

        with serving(batcher, serve):
            run_together(4, send)
        assert not loaded.rejected
        assert_in_order(loaded.taken, 4, 2_000)

    def test_an_awaited_record_is_not_left_behind_as_another_thread_ends_a_release(
        self, loaded: Client
    ) -> None:
        batcher = batching(loaded)

        def send(sender: int) -> None:
            for number in range(2_000):
                batcher.put(pending(b"%d %d" % (sender, number), Ticket()))

        run_together(4, send)
        assert not len(batcher)
        assert_in_order(loaded.taken, 4, 2_000)

    def test_senders_that_wait_for_room_keep_their_order_and_are_all_served(self) -> None:
        client = Client()
        client.room = 0
        batcher = batching(client)

        def send(sender: int) -> None:
            for number in range(200):
                waited = False
                while True:
                    try:
                        batcher.put(pending(b"%d %d" % (sender, number)), waited)
                        break
                    except QueueFull:
                        batcher.when_room(waited).result(60)
                        waited = True

        def serve(_: bool) -> None:
            client.room = len(client.taken) + 3
            batcher.release()
            batcher.admit()

        with serving(batcher, serve):
            run_together(4, send)
        assert_in_order(client.taken, 4, 200)

    def test_a_record_is_taken_or_rejected_or_refused_when_another_thread_closes(self) -> None:
        for _ in range(100):
            client = Client(on_their_way=LOAD)
            batcher = batching(client)
            accepted: list[bytes] = []

            def send_or_close(
                thread: int,
                batcher: Batcher = batcher,
                accepted: list[bytes] = accepted,
            ) -> None:
                if not thread:
                    batcher.release()
                    batcher.close(60.0)
                    return
                with contextlib.suppress(LayerClosed):
                    for number in range(100):
                        value = b"%d %d" % (thread, number)
                        put(batcher, value)
                        accepted.append(value)

            run_together(4, send_or_close)
            batcher.release()
            assert sorted(accepted) == sorted(client.taken + client.rejected)
            assert not len(batcher)
