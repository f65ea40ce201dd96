"""The text of a position: what it says comes back, and nothing else is taken for one."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import replace
from typing import Any

import ormsgpack
import pytest
from django.core.signing import Signer
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.exceptions import InvalidPosition
from kafka_layer.wire.places import lane_of, mark_of, place_text
from kafka_layer.wire.position_token import (
    LogPosition,
    StreamPosition,
    TopicPosition,
    short_hash,
)
from kafka_layer.wire.topics import BROADCAST_TOPICS, StreamTopic, Topic
from tests.support.tables import for_each

OFFSETS = st.integers(0, 2**63 - 1)
PLACES = st.builds(
    TopicPosition,
    st.none() | st.text("abcXYZ019-_", min_size=22, max_size=22),
    st.lists(OFFSETS, min_size=1, max_size=20).map(tuple),
)
HASHES = st.text().map(lambda text: short_hash(text.encode("utf-8", "ignore").decode()))
POSITIONS = st.builds(
    LogPosition,
    st.text("abc-.", min_size=1, max_size=100),
    st.integers(0, 4_000_000_000_000).map(lambda milliseconds: milliseconds / 1000),
    st.dictionaries(st.sampled_from(BROADCAST_TOPICS), PLACES),
    st.frozensets(HASHES, max_size=5),
    st.frozensets(HASHES, max_size=3),
)
OF_CHANNELS = st.builds(
    replace,
    POSITIONS,
    topics=st.dictionaries(
        st.sampled_from(BROADCAST_TOPICS),
        st.builds(
            lambda place, epoch: replace(place, epochs=(epoch,) * len(place.offsets)),
            PLACES,
            st.integers(-1, 2**31 - 1),
        ),
    ),
    names=st.lists(HASHES, min_size=1, max_size=4).map(tuple),
    starts=st.dictionaries(
        st.tuples(st.sampled_from(BROADCAST_TOPICS), HASHES, st.integers(0, 100)), OFFSETS
    ),
)
LANES = st.integers(0, 99).map(lambda number: lane_of(StreamTopic("orders", f"shop.{number}")))


@st.composite
def streams(draw: st.DrawFn) -> StreamPosition:
    if draw(st.booleans()):
        return StreamPosition(None)
    topics = draw(st.dictionaries(LANES, PLACES, max_size=3))
    of_partitions = {lane: len(place.offsets) for lane, place in topics.items()}
    starts = {
        lane: st.tuples(*[st.just(0) | OFFSETS] * count) for lane, count in of_partitions.items()
    }
    addresses = st.tuples(st.sampled_from([Topic.SEND_GROUP, Topic.SEND_USER]), HASHES)
    later = st.dictionaries(addresses, st.fixed_dictionaries(starts), max_size=3)
    return StreamPosition(topics, draw(later) if topics else {})


WITH_STREAMS = st.builds(
    replace,
    POSITIONS | OF_CHANNELS,
    streams=st.dictionaries(st.text().map(mark_of), streams(), min_size=1, max_size=3),
)
USUAL = LogPosition(
    "channels",
    1_795_000_000.123,
    {
        topic: TopicPosition("SI3g7vEeQh+PKj5jL60x2Q", (123_456, 98_765, 112_233))
        for topic in (Topic.SEND_GROUP, Topic.SEND_ALL)
    },
    frozenset({short_hash("room-7")}),
)


@given(POSITIONS | OF_CHANNELS | WITH_STREAMS)
def test_it_comes_back_as_it_was_and_can_stand_in_a_url_and_in_a_subprotocol(
    position: LogPosition,
) -> None:
    text = position.sign()
    assert LogPosition.read(text, position.prefix) == position
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", text)


def test_a_usual_one_is_short() -> None:
    assert len(USUAL.sign()) < 250
    place = TopicPosition("SI3g7vEeQh+PKj5jL60x2Q", (123_456, 98_765, 112_233), (3, 3, 3))
    of_channel = replace(
        USUAL,
        topics=dict.fromkeys(BROADCAST_TOPICS, place),
        users=frozenset({short_hash("7")}),
        names=(short_hash("a"), short_hash("b")),
    )
    assert len(of_channel.sign()) < 300


ORDERS = StreamTopic("orders", "shop.orders.v1")


def of_orders(partitions: int) -> LogPosition:
    place = TopicPosition("SI3g7vEeQh+PKj5jL60x2Q", tuple(range(10**6, 10**6 + partitions)))
    stream = StreamPosition({lane_of(ORDERS): place})
    return replace(USUAL, names=(short_hash("a"),), streams={mark_of("orders"): stream})


def test_a_stream_adds_few_characters_for_each_partition() -> None:
    short, long = (len(of_orders(partitions).sign()) for partitions in (3, 303))
    assert short < 350
    assert long - short <= 4 * 300 + 4
    assert len(of_orders(1000).sign()) < 8192


@for_each(
    "stream",
    [
        ["short", None, []],
        ["abcdef", [["abcde", "id", 1, b"\x01\x01", b""]], []],
        ["abcdef", [["abcdef", "id", -1, b"\x00", b""]], []],
        ["abcdef", [["abcdef", "id", 10**9, b"\x00", b""]], []],
        ["abcdef", [["abcdef", "id", 3, b"\x01\x01\x02", b""]], []],
        ["abcdef", [["abcdef", "id", 1, b"\x02\x01", b""]], []],
        ["abcdef", [["abcdef", "id", 1, b"\x08" + b"\xff" * 8, b""]], []],
        ["abcdef", [["abcdef", "id", 1, "text", b""]], []],
        ["abcdef", [["abcdef", "id", 1, b"\x00", b""]], [[[[0, b"short"]], [[0, b"\x00"]]]]],
        ["abcdef", [["abcdef", "id", 1, b"\x00", b""]], [[[[0, b"12345678"]], [[7, b"\x00"]]]]],
    ],
)
def test_each_field_of_a_stream_is_checked(stream: list[Any]) -> None:
    good = ["abcdef", [["abcdef", "id", 1, b"\x01\x01", b""]], []]
    assert LogPosition.read(signed([3, *OF_A_CHANNEL[1:], [good]]), "channels")
    with pytest.raises(InvalidPosition, match="no content"):
        LogPosition.read(signed([3, *OF_A_CHANNEL[1:], [stream]]), "channels")


def test_places_in_a_stream_raise_it() -> None:
    before = of_orders(3)
    places = [place_text((ORDERS, *place, 0.0)) for place in ((0, 10**6 + 5), (2, 7), (3, 1))]
    after = LogPosition.read("~".join([before.sign(), *places]), USUAL.prefix)
    [stream] = after.streams.values()
    assert stream.topics is not None
    assert stream.topics[lane_of(ORDERS)].offsets == (10**6 + 6, 10**6 + 1, 10**6 + 2, 2)
    # A topic that is newer than the position, such as a pattern finds.
    newer = StreamTopic("orders", "another")
    [stream] = LogPosition.read(
        f"{before.sign()}~{place_text((newer, 1, 5, 0.0))}", USUAL.prefix
    ).streams.values()
    assert [stream.offset(lane_of(newer), number) for number in range(2)] == [0, 6]
    assert stream.topics == before.streams[mark_of("orders")].topics


@given(st.data())
def test_whatever_is_changed_is_noticed(data: st.DataObject) -> None:
    text = USUAL.sign()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda letter: letter != text[at]))
    with pytest.raises(InvalidPosition):
        LogPosition.read(text[:at] + other + text[at + 1 :], USUAL.prefix)


@given(st.text())
def test_no_other_text_is_one(text: str) -> None:
    with pytest.raises(InvalidPosition):
        LogPosition.read(text, "channels")


ATOMS = st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()


@given(st.recursive(ATOMS, st.lists, max_leaves=9))
def test_signed_content_of_another_kind_is_refused(content: Any) -> None:
    with pytest.raises(InvalidPosition):
        LogPosition.read(signed(content), "channels")


FIELDS = [1, "channels", 1000, [[0, "id", [1]]], [b"12345678"], None]
OF_A_CHANNEL = [2, *FIELDS[1:3], [[0, b"1234567890123456", [1], [0]]], *FIELDS[4:], [], []]


@for_each(
    ("at", "value", "told"),
    [
        (0, 4, "version"),
        (1, "other", "prefix"),
        (1, 7, "no content"),
        (2, "now", "no content"),
        (3, [[9, "id", [1]]], "no content"),
        (3, [[0, 7, [1]]], "no content"),
        (3, [[0, "id", [-1]]], "no content"),
        (3, [[0, "id", ["1"]]], "no content"),
        (4, ["12345678"], "no content"),
        (4, [b"short"], "no content"),
        (5, b"short", "no content"),
        (5, [b"12345678", b"short"], "no content"),
    ],
)
def test_each_field_is_checked(at: int, value: Any, told: str) -> None:
    assert LogPosition.read(signed(FIELDS), "channels")
    with pytest.raises(InvalidPosition, match=told):
        LogPosition.read(signed([*FIELDS[:at], value, *FIELDS[at + 1 :]]), "channels")


@for_each(
    ("at", "value"),
    [
        (3, [[0, b"short", [1], [0]]]),
        (3, [[0, "id", [1], ["0"]]]),
        (3, [[0, "id", [1], [0, 0]]]),
        (6, [b"short"]),
        (7, [[0, b"short", 0, 1]]),
        (7, [[0, b"12345678", 0, -1]]),
        (7, [[9, b"12345678", 0, 1]]),
    ],
)
def test_each_field_of_a_channels_position_is_checked(at: int, value: Any) -> None:
    assert LogPosition.read(signed(OF_A_CHANNEL), "channels")
    changed = [*OF_A_CHANNEL[:at], value, *OF_A_CHANNEL[at + 1 :]]
    with pytest.raises(InvalidPosition, match="no content"):
        LogPosition.read(signed(changed), "channels")


def signed(content: Any) -> str:
    packed = base64.urlsafe_b64encode(ormsgpack.packb(content)).rstrip(b"=")
    return Signer(sep=".", salt="kafka_layer.position").sign(packed.decode())


def test_another_prefix_is_refused() -> None:
    with pytest.raises(InvalidPosition, match="prefix"):
        LogPosition.read(USUAL.sign(), "shop")


def test_an_endless_text_is_not_looked_at() -> None:
    with pytest.raises(InvalidPosition, match="too long"):
        LogPosition.read("a" * 100_000, "channels")


def test_keys_rotate_as_django_rotates_them() -> None:
    with override_settings(SECRET_KEY="old"):
        text = USUAL.sign()
    with override_settings(SECRET_KEY="new"), pytest.raises(InvalidPosition, match="SECRET_KEY"):
        LogPosition.read(text, USUAL.prefix)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
        assert LogPosition.read(text, USUAL.prefix) == USUAL


# Of USUAL, signed with the key "key".
WRITTEN = (
    "lgGoY2hhbm5lbHPPAAABoe5WXnuSkwC2U0kzZzd2RWVRaCtQS2o1akw2MHgyUZPOAAHiQM4AAYHNzgABtmmTArZTSTNnN3"
    "ZFZVFoK1BLajVqTDYweDJRk84AAeJAzgABgc3OAAG2aZHECLbBIiWW_Gq6wA"
    ".1RHOgXVlkoreopiUM7iPl3hjcfjb9Lu07ghXIFaKwos"
)


def test_the_text_of_this_version_stays_readable() -> None:
    """Written down: a page that was rendered before an update connects after it."""
    with override_settings(SECRET_KEY="key"):
        assert LogPosition.read(WRITTEN, "channels") == USUAL


@given(st.data())
def test_places_raise_it_and_never_lower_it(data: st.DataObject) -> None:
    topic = data.draw(st.sampled_from(sorted(USUAL.topics)))
    place = (topic, data.draw(st.integers(0, 5)), data.draw(st.integers(0, 200_000)), 0.0)
    raised = LogPosition.read(f"{USUAL.sign()}~{place_text(place)}", USUAL.prefix)
    assert replace(raised, topics=USUAL.topics) == USUAL
    for each, before in USUAL.topics.items():
        after = raised.topics[each]
        assert after.topic_id == before.topic_id
        for partition, offset in enumerate(after.offsets):
            old = before.offsets[partition] if partition < len(before.offsets) else 0
            reached = place[2] + 1 if (each, partition) == place[:2] else 0
            assert offset == max(old, reached)


def test_the_highest_of_many_places_counts() -> None:
    """As many as fit, in a partition that is not there: a browser may send what it likes."""
    text = USUAL.sign() + "~g9.5~g9999.7" + "~g9.3" * 1000
    started = time.process_time()
    offsets = LogPosition.read(text, USUAL.prefix).topics[Topic.SEND_GROUP].offsets
    took = time.process_time() - started
    assert (offsets[9], offsets[9999], sum(offsets[10:])) == (6, 8, 8)
    # A list of 10,000 offsets for each place would take a hundred times as long.
    assert took < 0.03


def test_a_place_in_a_topic_that_it_does_not_cover_changes_nothing() -> None:
    assert LogPosition.read(f"{USUAL.sign()}~u1.5~g0.1", USUAL.prefix) == USUAL


@for_each("place", ["", "g", "g1.", "x1.5", "g-1.5", "g1.-5", "g99999.1", "g1.٣"])
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(InvalidPosition, match="no place"):
        LogPosition.read(f"{USUAL.sign()}~{place}", USUAL.prefix)


def test_a_message_to_one_channel_has_no_place() -> None:
    assert place_text(None) == place_text((Topic.SEND_CONN, 1, 5, 0.0)) == ""
