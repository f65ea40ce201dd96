"""Tokens are bound to their address; a guard takes each once, and only soon after it was made."""

from __future__ import annotations

import base64
import hashlib
import time

import pytest
from cryptography.fernet import Fernet

from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.wire.encryption import CLOCK_ERROR, Encryption, ReplayGuard
from kafka_layer.wire.topics import Topic, WorkTopic
from tests.support.tables import for_each

EXPIRY = 60.0
KEY = b"secret"
ENCRYPTION = Encryption([KEY])
JOBS = WorkTopic("jobs")
PAYLOAD = b"\x81\xa4type\xacchat.message"
# What stands before the payload inside a token for send-group, key "room-1".
ADDRESS = b"send-group\0room-1\0"


def fernet(key: bytes) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest()))


class TestEncryption:
    def test_encrypted(self) -> None:
        encryption = Encryption([b"a key"])
        token = encryption.encrypt(Topic.SEND_GROUP, "room-1", PAYLOAD)
        assert fernet(b"a key").decrypt(token) == ADDRESS + PAYLOAD

    def test_an_encrypted_value_of_an_earlier_time(self) -> None:
        token = fernet(b"a key").encrypt_at_time(ADDRESS + PAYLOAD, 1_000_000_000)
        assert Encryption([b"a key"]).decrypt(Topic.SEND_GROUP, "room-1", token) == PAYLOAD

    def test_a_token_is_known_by_its_first_byte(self) -> None:
        assert Encryption([b"k"]).encrypt(Topic.ACK, "", b"").startswith(b"g")

    @for_each("topic", list(Topic))
    @for_each("key", ["room-1", "", None, "ü"])
    def test_round_trip(self, topic: Topic, key: str | None) -> None:
        encryption = Encryption([b"secret"])
        assert encryption.decrypt(topic, key, encryption.encrypt(topic, key, PAYLOAD)) == PAYLOAD

    def test_nothing_of_the_message_shows(self) -> None:
        token = Encryption([b"secret"]).encrypt(Topic.SEND_GROUP, "room-1", PAYLOAD)
        plain = base64.urlsafe_b64decode(token)
        assert b"chat.message" not in token + plain
        assert b"room-1" not in token + plain

    def test_two_tokens_of_one_message_differ(self) -> None:
        encryption = Encryption([b"secret"])
        assert encryption.encrypt(Topic.ACK, "a", b"x") != encryption.encrypt(Topic.ACK, "a", b"x")

    def test_rotation(self) -> None:
        old, new = Encryption([b"1"]), Encryption([b"2"])
        both = Encryption([b"2", b"1"])
        by_old = old.encrypt(Topic.ACK, "a", b"payload")
        by_both = both.encrypt(Topic.ACK, "a", b"payload")
        assert both.decrypt(Topic.ACK, "a", by_old) == b"payload"
        assert both.decrypt(Topic.ACK, "a", by_both) == b"payload"
        assert new.decrypt(Topic.ACK, "a", by_both) == b"payload"
        for encryption, token in ((old, by_both), (new, by_old)):
            with pytest.raises(UnreadableRecord, match="symmetric_encryption_keys"):
                encryption.decrypt(Topic.ACK, "a", token)

    @for_each(
        ("topic", "key"),
        [
            (Topic.SEND_GROUP, "room-2"),
            (Topic.SEND_GROUP, ""),
            (Topic.SEND_GROUP, None),
            (Topic.SEND_USER, "room-1"),
            (Topic.SEND_GROUP, "room-1\0"),
        ],
    )
    def test_a_token_is_worth_nothing_under_another_address(
        self, topic: Topic, key: str | None
    ) -> None:
        encryption = Encryption([b"secret"])
        token = encryption.encrypt(Topic.SEND_GROUP, "room-1", PAYLOAD)
        with pytest.raises(UnreadableRecord, match="another address") as caught:
            encryption.decrypt(topic, key, token)
        assert caught.value.cause == "decrypt"

    def test_every_byte_counts(self) -> None:
        encryption = Encryption([b"secret"])
        token = encryption.encrypt(Topic.SEND_GROUP, "room-1", b"payload")
        raw = base64.urlsafe_b64decode(token)
        for position in range(1, len(raw)):
            changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
            with pytest.raises(UnreadableRecord):
                encryption.decrypt(Topic.SEND_GROUP, "room-1", base64.urlsafe_b64encode(changed))
        for cut in (token[:-1], token[:20], b"g", b"gAAAA"):
            with pytest.raises(UnreadableRecord):
                encryption.decrypt(Topic.SEND_GROUP, "room-1", cut)

    def test_plain_values_are_refused_where_keys_are_set(self) -> None:
        for value in (PAYLOAD, b"{}", b"\x80"):
            with pytest.raises(UnreadableRecord, match="not encrypted"):
                Encryption([b"secret"]).decrypt(Topic.SEND_GROUP, "room-1", value)

    @for_each("keys", [[], [b"secret"]])
    @for_each("value", [None, b""])
    def test_nothing_is_no_value(self, keys: list[bytes], value: bytes | None) -> None:
        with pytest.raises(UnreadableRecord, match="it has no value"):
            Encryption(keys).decrypt(Topic.SEND_GROUP, "room-1", value)

    def test_tokens_are_refused_where_no_keys_are_set(self) -> None:
        token = Encryption([b"secret"]).encrypt(Topic.SEND_GROUP, "room-1", PAYLOAD)
        with pytest.raises(UnreadableRecord, match="is not set"):
            Encryption().decrypt(Topic.SEND_GROUP, "room-1", token)

    def test_without_keys_the_payload_is_the_value(self) -> None:
        encryption = Encryption()
        assert encryption.encrypt(Topic.SEND_GROUP, "room-1", PAYLOAD) is PAYLOAD
        assert encryption.decrypt(Topic.SEND_GROUP, "other", PAYLOAD) is PAYLOAD


@pytest.fixture
def guard() -> ReplayGuard:
    return ReplayGuard(ENCRYPTION, EXPIRY)


def seal(sealed: float, payload: bytes = b"payload") -> bytes:
    return fernet(KEY).encrypt_at_time(b"send-group\0room\0" + payload, int(sealed))


def take(guard: ReplayGuard, value: bytes, written: float) -> bytes:
    return guard.decrypt(Topic.SEND_GROUP, "room", value, written)


def refused(guard: ReplayGuard, value: bytes, written: float) -> str:
    with pytest.raises(UnreadableRecord) as caught:
        take(guard, value, written)
    assert caught.value.cause == "replayed"
    return str(caught.value)


def test_each_token_is_taken_once(guard: ReplayGuard) -> None:
    now = time.time()
    one, other = seal(now), seal(now)
    assert take(guard, one, now) == take(guard, other, now) == b"payload"
    for written in (now, now + 1):
        assert "another record had the same token" in refused(guard, one, written)
        assert "another record had the same token" in refused(guard, other, written)


def test_a_copy_in_other_base64_is_a_copy(guard: ReplayGuard) -> None:
    now = time.time()
    token = seal(now)
    take(guard, token, now)
    for copy in (token + b"\n", token[:40] + b"   " + token[40:]):
        assert ENCRYPTION.decrypt(Topic.SEND_GROUP, "room", copy) == b"payload"
        refused(guard, copy, now)


@pytest.mark.parametrize("foreign", [b"*", b"\n", b" "])
def test_a_copy_whose_stamp_is_written_otherwise_is_no_token(
    guard: ReplayGuard, foreign: bytes
) -> None:
    now = time.time()
    token = seal(now)
    copy = token[:9] + foreign + token[9:]
    assert ENCRYPTION.decrypt(Topic.SEND_GROUP, "room", copy) == b"payload"
    with pytest.raises(UnreadableRecord, match="foreign characters"):
        take(guard, copy, now)
    assert take(guard, token, now) == b"payload"


def test_readers_do_not_know_of_each_other(guard: ReplayGuard) -> None:
    now = time.time()
    token = seal(now)
    assert take(guard, token, now) == take(ReplayGuard(ENCRYPTION, EXPIRY), token, now)


@pytest.mark.parametrize("late", [-CLOCK_ERROR + 2, 0, EXPIRY, EXPIRY + CLOCK_ERROR - 2])
def test_it_may_wait_and_clocks_may_differ(guard: ReplayGuard, late: float) -> None:
    now = time.time()
    assert take(guard, seal(now - late), now) == b"payload"


@pytest.mark.parametrize("late", [-CLOCK_ERROR - 2, EXPIRY + CLOCK_ERROR + 2, 1e6])
def test_an_old_one_is_refused_whether_it_was_seen_or_not(guard: ReplayGuard, late: float) -> None:
    now = time.time()
    assert f"sealed {late:.0f} s before" in refused(guard, seal(int(now) - late), int(now))


def test_nothing_is_forgotten_while_it_would_be_taken() -> None:
    start = 1_000_000_000
    guard = ReplayGuard(ENCRYPTION, EXPIRY)
    tokens = {}
    # One token a second, each ahead as far as it may be, and copied as late as it may be.
    for now in range(start, start + 1000):
        tokens[now] = seal(now + CLOCK_ERROR)
        take(guard, tokens[now], now)
        copied = now - int(EXPIRY + 2 * CLOCK_ERROR)
        if copied in tokens:
            refused(guard, tokens[copied], now)


def test_memory_is_bounded() -> None:
    start = 1_000_000_000
    guard = ReplayGuard(ENCRYPTION, EXPIRY)
    for now in range(start, start + 1000):
        take(guard, seal(now), now)
    assert len(guard) <= 2 * (EXPIRY + 2 * CLOCK_ERROR) + 2


def test_memory_is_bounded_however_many_come() -> None:
    guard = ReplayGuard(ENCRYPTION, EXPIRY, max_tokens=50)
    now = time.time()
    tokens = [seal(now) for _ in range(200)]
    for token in tokens:
        take(guard, token, now)
    for token in tokens[-50:]:
        refused(guard, token, now)
    assert len(guard) <= 100


def test_a_record_may_be_read_again_where_it_stands(guard: ReplayGuard) -> None:
    now = time.time()
    value = ENCRYPTION.encrypt(JOBS, None, b"job")
    for _ in range(2):
        assert guard.decrypt(JOBS, None, value, now, (0, 7)) == b"job"
    for place in ((0, 8), (1, 7)):
        with pytest.raises(UnreadableRecord, match="the same token"):
            guard.decrypt(JOBS, None, value, now, place)


def test_what_encryption_refuses_is_refused_and_not_remembered(guard: ReplayGuard) -> None:
    now = time.time()
    with pytest.raises(UnreadableRecord) as caught:
        guard.decrypt(Topic.SEND_GROUP, "elsewhere", seal(now), now)
    assert caught.value.cause == "decrypt"
    # And it counts for nothing: the right one is still new.
    assert take(guard, seal(now), now) == b"payload"


def test_without_keys_nothing_is_a_copy() -> None:
    guard = ReplayGuard(Encryption(), EXPIRY)
    for _ in range(2):
        assert guard.decrypt(Topic.SEND_GROUP, "room", b"\x80", 0.0) == b"\x80"
