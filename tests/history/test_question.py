"""Where the records of an address may lie, and what the position of a question says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.history.question import Question, partitions_to_read
from kafka_layer.transport import Extent
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.position_token import LogPosition, TopicPosition, short_hash
from kafka_layer.wire.topics import Topic

GROUP = Question("channels", Topic.SEND_GROUP, "room")
KEYS = st.text("abcdef", min_size=1)


def logs(*starts: int) -> dict[int, Extent]:
    return {number: Extent("id", start, 100) for number, start in enumerate(starts)}


@given(KEYS, st.integers(1, 12))
def test_a_topic_of_which_nothing_was_deleted_may_have_grown_from_one_partition(
    key: str, partitions: int
) -> None:
    question = Question("channels", Topic.SEND_GROUP, key)
    found = partitions_to_read(question, logs(*[0] * partitions), None)
    assert found == sorted({partition_of(key, count) for count in range(1, partitions + 1)})


@given(KEYS, st.integers(1, 12))
def test_where_the_last_partition_is_old_it_has_not_grown(key: str, partitions: int) -> None:
    question = Question("channels", Topic.SEND_GROUP, key)
    found = partitions_to_read(question, logs(*[0] * (partitions - 1), 7), None)
    assert found == [partition_of(key, partitions)]


@given(KEYS, st.integers(1, 12), st.data())
def test_a_position_knows_how_many_partitions_there_were(
    key: str, partitions: int, data: st.DataObject
) -> None:
    before = data.draw(st.integers(1, partitions))
    question = Question("channels", Topic.SEND_USER, key)
    place = TopicPosition("id", (0,) * before)
    found = partitions_to_read(question, logs(*[0] * partitions), place)
    assert found == sorted({partition_of(key, count) for count in range(before, partitions + 1)})


def test_what_is_sent_to_everybody_lies_in_all_partitions() -> None:
    assert partitions_to_read(Question("p", Topic.SEND_ALL, ""), logs(0, 5, 0), None) == [0, 1, 2]


def extents(**ends: int) -> dict[tuple[Topic, int], Extent]:
    topics = {"group": Topic.SEND_GROUP, "user": Topic.SEND_USER, "all": Topic.SEND_ALL}
    return {
        (topics[name], number): Extent(name, 0, end)
        for name, end in ends.items()
        for number in range(2)
    }


def test_a_position_is_the_end_of_the_log() -> None:
    position = GROUP.position(1000.0, extents(group=5, all=3))
    assert position.topics == {
        Topic.SEND_GROUP: TopicPosition("group", (5, 5)),
        Topic.SEND_ALL: TopicPosition("all", (3, 3)),
    }
    assert position.groups == {short_hash("room")}
    assert not position.users
    assert position.time == 1000.0


def test_the_place_in_other_topics_is_that_of_the_position_before() -> None:
    user = Question("channels", Topic.SEND_USER, "7").position(1000.0, extents(user=1, all=1))
    later = Question("channels", Topic.SEND_GROUP, "room", 10, user)
    position = later.position(2000.0, extents(group=9, all=9))
    assert position.topics == {
        Topic.SEND_GROUP: TopicPosition("group", (9, 9)),
        Topic.SEND_USER: TopicPosition("user", (1, 1)),
        Topic.SEND_ALL: TopicPosition("all", (1, 1)),
    }
    assert (position.groups, position.users) == ({short_hash("room")}, {short_hash("7")})


def test_of_two_groups_that_a_position_names_the_one_that_was_asked_for_stays() -> None:
    place = TopicPosition("group", (1, 1))
    both = frozenset({short_hash("room"), short_hash("hall")})
    since = LogPosition("channels", 1.0, {Topic.SEND_GROUP: place}, both)
    later = Question("channels", Topic.SEND_GROUP, "room", 10, since)
    assert later.position(2.0, extents(group=9, all=9)).groups == {short_hash("room")}
