"""A token is taken once, and only soon after it was sealed."""

from __future__ import annotations

import base64
import hashlib
import time

import pytest
from cryptography.fernet import Fernet

from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.wire import encryption as replays
from kafka_layer.wire.codec import Codec
from kafka_layer.wire.encryption import CLOCK_ERROR, Opener
from kafka_layer.wire.topics import Topic, WorkTopic

EXPIRY = 60.0
KEY = b"secret"
CODEC = Codec("msgpack", [KEY])
JOBS = WorkTopic("jobs")


@pytest.fixture
def opener() -> Opener:
    return Opener(CODEC, EXPIRY)


def seal(sealed: float, payload: bytes = b"payload") -> bytes:
    fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(KEY).digest()))
    return fernet.encrypt_at_time(b"send-group\0room\0" + payload, int(sealed))


def take(opener: Opener, value: bytes, written: float) -> bytes:
    return opener.open(Topic.SEND_GROUP, "room", value, written)


def refused(opener: Opener, value: bytes, written: float) -> str:
    with pytest.raises(UnreadableRecord) as caught:
        take(opener, value, written)
    assert caught.value.cause == "replayed"
    return str(caught.value)


def test_each_token_is_taken_once(opener: Opener) -> None:
    now = time.time()
    one, other = seal(now), seal(now)
    assert take(opener, one, now) == take(opener, other, now) == b"payload"
    for written in (now, now + 1):
        assert "another record had the same token" in refused(opener, one, written)
        assert "another record had the same token" in refused(opener, other, written)


def test_a_copy_in_other_base64_is_a_copy(opener: Opener) -> None:
    now = time.time()
    token = seal(now)
    take(opener, token, now)
    for copy in (token + b"\n", token[:40] + b"   " + token[40:]):
        assert CODEC.open(Topic.SEND_GROUP, "room", copy) == b"payload"
        refused(opener, copy, now)


@pytest.mark.parametrize("foreign", [b"*", b"\n", b" "])
def test_a_copy_whose_stamp_is_written_otherwise_is_no_token(
    opener: Opener, foreign: bytes
) -> None:
    now = time.time()
    token = seal(now)
    copy = token[:9] + foreign + token[9:]
    assert CODEC.open(Topic.SEND_GROUP, "room", copy) == b"payload"
    with pytest.raises(UnreadableRecord, match="foreign characters"):
        take(opener, copy, now)
    assert take(opener, token, now) == b"payload"


def test_readers_do_not_know_of_each_other(opener: Opener) -> None:
    now = time.time()
    token = seal(now)
    assert take(opener, token, now) == take(Opener(CODEC, EXPIRY), token, now)


@pytest.mark.parametrize("late", [-CLOCK_ERROR + 2, 0, EXPIRY, EXPIRY + CLOCK_ERROR - 2])
def test_it_may_wait_and_clocks_may_differ(opener: Opener, late: float) -> None:
    now = time.time()
    assert take(opener, seal(now - late), now) == b"payload"


@pytest.mark.parametrize("late", [-CLOCK_ERROR - 2, EXPIRY + CLOCK_ERROR + 2, 1e6])
def test_an_old_one_is_refused_whether_it_was_seen_or_not(opener: Opener, late: float) -> None:
    now = time.time()
    assert f"sealed {late:.0f} s before" in refused(opener, seal(int(now) - late), int(now))


def test_nothing_is_forgotten_while_it_would_be_taken() -> None:
    start = 1_000_000_000
    opener = Opener(CODEC, EXPIRY)
    tokens = {}
    # One token a second, each ahead as far as it may be, and copied as late as it may be.
    for now in range(start, start + 1000):
        tokens[now] = seal(now + CLOCK_ERROR)
        take(opener, tokens[now], now)
        copied = now - int(EXPIRY + 2 * CLOCK_ERROR)
        if copied in tokens:
            refused(opener, tokens[copied], now)


def test_memory_is_bounded() -> None:
    start = 1_000_000_000
    opener = Opener(CODEC, EXPIRY)
    for now in range(start, start + 1000):
        take(opener, seal(now), now)
    assert len(opener._seen) + len(opener._seen_before) <= 2 * (EXPIRY + 2 * CLOCK_ERROR) + 2


def test_memory_is_bounded_however_many_come(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "MOST", 50)
    now = time.time()
    tokens = [seal(now) for _ in range(200)]
    for token in tokens:
        take(opener, token, now)
    for token in tokens[-50:]:
        refused(opener, token, now)
    assert len(opener._seen) + len(opener._seen_before) <= 100


def test_a_record_may_be_read_again_where_it_stands(opener: Opener) -> None:
    now = time.time()
    value = CODEC.seal(JOBS, None, b"job")
    for _ in range(2):
        assert opener.open(JOBS, None, value, now, (0, 7)) == b"job"
    for place in ((0, 8), (1, 7)):
        with pytest.raises(UnreadableRecord, match="the same token"):
            opener.open(JOBS, None, value, now, place)


def test_what_codec_refuses_is_refused_as_before(opener: Opener) -> None:
    now = time.time()
    with pytest.raises(UnreadableRecord) as caught:
        opener.open(Topic.SEND_GROUP, "elsewhere", seal(now), now)
    assert caught.value.cause == "decrypt"
    # And it counts for nothing: the right one is still new.
    assert take(opener, seal(now), now) == b"payload"


def test_without_keys_nothing_is_a_copy() -> None:
    opener = Opener(Codec("msgpack"), EXPIRY)
    for _ in range(2):
        assert opener.open(Topic.SEND_GROUP, "room", b"\x80", 0.0) == b"\x80"
