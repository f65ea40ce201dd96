"""Names: what they look like, what can be read from them."""

from __future__ import annotations

import enum
import uuid
import weakref

import pytest
from channels.layers import BaseChannelLayer
from django.utils.safestring import SafeString

from kafka_layer.wire.names import (
    CHANNEL_NAME,
    GROUP_NAME,
    ServerName,
    new_channel_name,
    owner_of,
    parse_address,
    parse_server_name,
    user_key,
)
from kafka_layer.wire.topics import BROADCAST_TOPICS, INBOX_TOPICS, Topic, WorkTopic, topic_name
from tests.support.tables import for_each

SERVER = ServerName(3, "k2f9q0v1")


class Name(str, enum.Enum):
    ANN = "ann"


class Number(enum.IntEnum):
    SEVEN = 7

    def __str__(self) -> str:
        """Return what Python 3.10 does."""
        return f"Number.{self.name}"


class Spelled(str):
    def __str__(self) -> str:
        return "-".join(self)


class Rounded(int):
    def __repr__(self) -> str:
        return "about 7"


def test_topic_names() -> None:
    assert [topic_name("chat", topic) for topic in Topic] == [
        *("chat-send-group", "chat-send-user", "chat-send-all"),
        *("chat-send-conn", "chat-group-mgmt", "chat-ack"),
    ]


def test_every_topic_is_read_either_by_all_or_by_one() -> None:
    assert sorted(BROADCAST_TOPICS + INBOX_TOPICS) == sorted(Topic)
    assert not set(BROADCAST_TOPICS) & set(INBOX_TOPICS)


class TestServerNames:
    def test_it_reads_back_what_it_writes(self) -> None:
        assert str(SERVER) == "3-k2f9q0v1"
        assert parse_server_name("3-k2f9q0v1") == SERVER

    def test_new_ones_differ(self) -> None:
        names = {ServerName.new(7) for _ in range(1000)}
        assert len(names) == 1000
        assert {name.partition for name in names} == {7}
        assert all(parse_server_name(str(name)) == name for name in names)

    @for_each(
        "name", ["", "3", "3-", "-a", "x-a", "3-a-b", "3-a!b", " 3-a", "3-a\n", "-3-a", "1234567-a"]
    )
    def test_what_is_no_server_name(self, name: str) -> None:
        assert parse_server_name(name) is None

    def test_digits_of_other_scripts_are_none(self) -> None:
        assert parse_server_name("\N{ARABIC-INDIC DIGIT THREE}-a") is None


class TestChannelNames:
    def test_it_carries_the_server(self) -> None:
        assert owner_of(new_channel_name("specific", SERVER)) == SERVER

    @for_each("prefix", ["specific", "specific.", "a.b", "a-b_c", "7-7"])
    def test_any_legal_prefix(self, prefix: str) -> None:
        name = new_channel_name(prefix, SERVER)
        assert name.startswith(prefix.rstrip(".") + ".")
        assert owner_of(name) == SERVER
        BaseChannelLayer().require_valid_channel_name(name)

    def test_new_ones_differ(self) -> None:
        assert len({new_channel_name("specific", SERVER) for _ in range(10_000)}) == 10_000

    def test_it_is_a_str_that_can_be_weakly_referenced(self) -> None:
        name = new_channel_name("specific", SERVER)
        assert isinstance(name, str)
        assert {str(name): 1}[name] == 1
        collected: list[object] = []
        reference = weakref.ref(name, collected.append)
        del name
        assert reference() is None
        assert len(collected) == 1

    @for_each("name", ["specific!abc", "!abc", "specific.x!abc", "a.3!b", "3-a.b!c"])
    def test_a_name_without_a_server(self, name: str) -> None:
        assert owner_of(name) is None
        assert parse_address(name) is None

    def test_whom_a_name_means(self) -> None:
        assert parse_address("specific.3-k2f9q0v1!hJ7x") == ServerName(3, "k2f9q0v1")
        assert parse_address("thumbnails") == WorkTopic("thumbnails")

    @for_each("name", ["", "a b", "jobs\n", "j" * 100, "specific.3-a!b c"])
    def test_an_illegal_name_means_nobody(self, name: str) -> None:
        assert parse_address(name) is None


class TestLegalNames:
    @for_each("name", ["a", "room-1", "a.b_c-D9", ".", "-"])
    def test_both(self, name: str) -> None:
        assert GROUP_NAME.match(name)
        assert CHANNEL_NAME.match(name)

    @for_each("name", ["a!", "a!b", "specific.3-k2f9q0v1!hJ7_x-."])
    def test_channels_only(self, name: str) -> None:
        assert CHANNEL_NAME.match(name)
        assert not GROUP_NAME.match(name)

    @for_each(
        "name",
        [
            *("", " ", "a b", "a/b", "a:b", "a,b", "!", "!a", "a!b!c", "ü", "a!ü", "a\0", "a!\0"),
            *("a\n", "a!\n", "a!b\n", "\na", "a\nb"),
            # Digits and letters to Unicode, and not to a topic's name.
            *("room-\N{ARABIC-INDIC DIGIT THREE}", "a!\N{ARABIC-INDIC DIGIT THREE}"),
            *("room-\N{FULLWIDTH DIGIT THREE}", "a!\N{FULLWIDTH LATIN SMALL LETTER A}", "a!é"),
        ],
    )
    def test_neither(self, name: str) -> None:
        assert not GROUP_NAME.match(name)
        assert not CHANNEL_NAME.match(name)

    def test_they_forbid_no_more_than_channels_does(self) -> None:
        ascii_letters = [chr(code) for code in range(128) if chr(code) != "\n"]
        for name in [letter + "!" * more for letter in ascii_letters for more in (0, 1)]:
            ours, theirs = CHANNEL_NAME.match(name), BaseChannelLayer.channel_name_regex.match(name)
            assert bool(ours) == bool(theirs), name
            ours, theirs = GROUP_NAME.match(name), BaseChannelLayer.group_name_regex.match(name)
            assert bool(ours) == bool(theirs), name


class TestUserKeys:
    def test_a_number_and_its_digits_are_the_same_user(self) -> None:
        assert user_key(7) == user_key("7") == "7"
        assert user_key(-1) == "-1"
        assert user_key("Jörg") == "Jörg"

    @for_each("user_id", [Name.ANN, Spelled("ann"), SafeString("ann")])
    def test_a_text_of_a_subclass_is_the_same_user(self, user_id: str) -> None:
        assert user_key(user_id) == "ann"
        assert type(user_key(user_id)) is str

    @pytest.mark.parametrize("user_id", [Number.SEVEN, Rounded(7)])
    def test_a_number_of_a_subclass_is_the_same_user(self, user_id: int) -> None:
        assert user_key(user_id) == "7"

    def test_a_uuid_is_its_text(self) -> None:
        assert user_key(uuid.UUID(int=7)) == "00000000-0000-0000-0000-000000000007"

    def test_an_id_of_a_class_with_a_text_of_its_own_is_taken(self) -> None:
        class ObjectId:
            def __str__(self) -> str:
                return "65f0"

        assert user_key(ObjectId()) == user_key("65f0")  # type: ignore[arg-type]

    def test_a_user_in_place_of_its_id_is_refused(self) -> None:
        class User:
            pk = 7

            def __str__(self) -> str:
                return "ann"

        with pytest.raises(TypeError, match="user id"):
            user_key(User())  # type: ignore[arg-type]

    def test_it_holds_no_nul(self) -> None:
        # It ends the address that encryption binds a message to.
        with pytest.raises(TypeError, match="NUL"):
            user_key("7\0")

    @pytest.mark.parametrize("letter", ["x", "ü"])
    def test_it_fits_into_what_the_sender_keeps_for_a_key(self, letter: str) -> None:
        longest = letter * (900 // len(letter.encode()))
        assert user_key(longest) == longest
        with pytest.raises(TypeError, match=r"may have 900 bytes, and .* has 90[12]"):
            user_key(longest + letter)

    def test_an_id_that_utf_8_cannot_carry_is_refused(self) -> None:
        with pytest.raises(TypeError, match="UTF-8"):
            user_key("7\ud800")

    @for_each("user_id", ["", None, True, 1.0, b"7", ["7"], ("7",), object(), str])
    def test_what_is_no_user_id(self, user_id: object) -> None:
        with pytest.raises(TypeError, match="user id"):
            user_key(user_id)  # type: ignore[arg-type]


@for_each("channel", ["jobs", "a-b", "a_b", "a--u_-b", "a.b-u", "-", "_u"])
def test_a_work_topic_tells_its_channel(channel: str) -> None:
    assert WorkTopic.parse(WorkTopic(channel).value) == WorkTopic(channel)


@for_each("value", ["ack", "work.a_b", "work." + "x" * 200, "work." + "x-h" * 40])
def test_a_topic_that_tells_no_channel(value: str) -> None:
    assert WorkTopic.parse(value) is None
