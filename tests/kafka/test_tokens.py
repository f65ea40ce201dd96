"""OAUTHBEARER tokens: one call of the settings' callback for all clients."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from kafka_layer.config.librdkafka import Properties
from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import BrokerUnavailable
from kafka_layer.kafka.clients import new_client
from kafka_layer.kafka.tokens import TokenSource, token_source
from tests.support.tables import for_each
from tests.support.waiting import wait_until

TOKEN = "e30.eyJzdWIiOiJ4In0."
OAUTH = {
    "bootstrap.servers": "127.0.0.1:1",
    "security.protocol": "sasl_plaintext",
    "sasl.mechanism": "OAUTHBEARER",
    "error_cb": lambda error: None,
    "log_level": 0,
}


class Callback:
    """An ``oauth_cb``.

    Args:
        life: For how many seconds its tokens are good.
    """

    def __init__(self, life: float = 600.0) -> None:
        self.life = life
        self.calls: list[Any] = []
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: BaseException | None = None

    def __call__(self, config: Any) -> tuple[str, float]:
        self.calls.append(config)
        self.entered.set()
        assert self.go_on.wait(60)
        if self.error is not None:
            raise self.error
        return f"{TOKEN}{len(self.calls)}", time.time() + self.life


@pytest.fixture
def callback() -> Iterator[Callback]:
    callback = Callback()
    yield callback
    callback.go_on.set()


def test_clients_one_after_another_share_a_token(callback: Callback) -> None:
    source = TokenSource(callback)
    assert source("a") == source("a")
    assert callback.calls == ["a"]


def test_clients_at_the_same_time_wait_for_one_call(callback: Callback) -> None:
    source, answers = TokenSource(callback), []
    callback.go_on.clear()
    threads = [threading.Thread(target=lambda: answers.append(source("a"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert callback.entered.wait(30)
    callback.go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 5
    assert len(set(answers)) == 1
    assert callback.calls == ["a"]


def test_a_token_is_not_shared_at_the_end_of_its_life(callback: Callback) -> None:
    """librdkafka asks for a new one after 80 % of it."""
    callback.life = 0.4
    source = TokenSource(callback)
    first = source("a")
    time.sleep(0.31)  # The token's age is what this is about.
    assert source("a") != first


def test_other_configs_have_other_tokens(callback: Callback) -> None:
    source = TokenSource(callback)
    assert source("a") != source("b")
    assert callback.calls == ["a", "b"]


def test_an_error_is_not_remembered(callback: Callback) -> None:
    source = TokenSource(callback)
    callback.error = ValueError("no token for you")
    with pytest.raises(ValueError, match="no token for you"):
        source("a")
    callback.error = None
    assert source("a")


def test_an_answer_of_another_kind_is_handed_on_and_not_remembered() -> None:
    calls = []
    source = TokenSource(lambda config: calls.append(config))
    assert source("a") is None
    assert source("a") is None
    assert calls == ["a", "a"]


class TestPrefetch:
    def test_a_callback_that_raises_is_named_with_the_token(self, callback: Callback) -> None:
        callback.error = ValueError("secret")
        with pytest.raises(BrokerUnavailable, match="oauth_cb raised ValueError") as raised:
            TokenSource(callback).prefetch("a")
        assert "OAUTHBEARER token" in str(raised.value)
        assert "secret" not in str(raised.value)
        assert raised.value.__cause__ is callback.error

    def test_a_callback_that_takes_too_long_is_named_and_its_token_comes_later(
        self, callback: Callback
    ) -> None:
        source = TokenSource(callback, patience=0.05)
        callback.go_on.clear()
        with pytest.raises(BrokerUnavailable, match="returned no OAUTHBEARER token"):
            source.prefetch("a")
        callback.go_on.set()

        def has_it() -> bool:
            try:
                return bool(source("a"))
            except concurrent.futures.TimeoutError:
                return False

        wait_until(has_it, "the token that the slow call returned")
        assert callback.calls == ["a"]

    @for_each(
        ("answer", "said"),
        [
            (TOKEN, "a str instead of a tuple"),
            (None, "a NoneType instead of a tuple"),
            ((TOKEN,), "a tuple of 1"),
            ((TOKEN, "soon"), "a tuple of a str and a str"),
            ((TOKEN.encode(), 2e9), "a tuple of a bytes and a float"),
            ((TOKEN, 1_000_000_000), r"a token that expired \d+ s ago"),
        ],
    )
    def test_an_answer_that_is_no_token_is_told_at_once(self, answer: Any, said: str) -> None:
        with pytest.raises(BrokerUnavailable, match=f"oauth_cb returned {said}; it must") as raised:
            TokenSource(lambda config: answer).prefetch("a")
        assert TOKEN not in str(raised.value)

    def test_a_token_may_have_a_principal_and_extensions(self) -> None:
        TokenSource(lambda config: (TOKEN, time.time() + 60, "ann", {"team": "a"})).prefetch("a")


def at_once(*calls: Callable[[], object]) -> None:
    """Make calls that wait a second for a token each, as librdkafka's clients do."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as executor:
        for future in [executor.submit(each) for each in calls]:
            future.result()


class TestClients:
    def test_all_clients_get_one_token_from_the_config_that_librdkafka_would_pass(
        self, callback: Callback
    ) -> None:
        asked: list[Any] = []

        def direct(config: Any) -> tuple[str, float]:
            asked.append(config)
            return TOKEN, time.time() + 600

        def make(kind: Any, **own: Any) -> object:
            return new_client(kind, Properties({**OAUTH, **own, "oauth_cb": callback}), "x")

        def make_later() -> object:
            wait_until(lambda: callback.calls, "the first call")
            return make(Producer)

        scope = {"sasl.oauthbearer.config": "scope=kafka"}
        at_once(
            partial(make, Producer),
            partial(make, Consumer, **{"group.id": "g"}),
            make_later,
            partial(make, Producer, **scope),
            *(partial(Producer, {**OAUTH, **config, "oauth_cb": direct}) for config in ({}, scope)),
        )
        assert len(asked) == 2
        # One call for each config, however many clients have it.
        assert Counter(callback.calls) == Counter(asked)

    def test_a_callback_that_raises_is_no_wrong_property(self, callback: Callback) -> None:
        callback.error = ValueError("no token for you")
        began = time.monotonic()
        for kind, own in ((Producer, {}), (Consumer, {"group.id": "g"})):
            with pytest.raises(BrokerUnavailable, match="oauth_cb raised ValueError"):
                new_client(kind, Properties({**OAUTH, **own, "oauth_cb": callback}), "x")
        assert time.monotonic() - began < 9, "the client waits ten seconds for a token"


@for_each("keyword", ["client_config", "producer_config"])
@for_each(
    ("properties", "extra"),
    [
        ({}, 0.0),
        ({"oauth_cb": print}, Timings.token),
        ({"sasl.oauthbearer.method": "OIDC"}, Timings.token),
        ({"sasl.oauthbearer.method": "default"}, 0.0),
    ],
)
def test_a_start_gets_more_time_where_a_token_is_fetched(
    keyword: str, properties: dict[str, Any], extra: float
) -> None:
    config = LayerConfig.from_keywords(bootstrap_servers="kafka:9092", **{keyword: properties})
    assert config.timed(Timings()).timings.start == Timings.start + extra


def test_a_child_that_is_forked_during_a_call_fetches_its_own_token(callback: Callback) -> None:
    callback.go_on.clear()
    waiting = threading.Thread(target=lambda: token_source(callback)("a"), daemon=True)
    waiting.start()
    assert callback.entered.wait(30)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # Ends the child where it hangs.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)
            callback.go_on = threading.Event()
            callback.go_on.set()
            status = 0 if token_source(callback)("a")[0].endswith("2") else 1
        finally:
            os._exit(status)
    callback.go_on.set()
    _, status = os.waitpid(child, 0)
    assert status == 0
    waiting.join(30)


class TestNotes:
    """Callbacks of the settings that librdkafka calls while it serves messages and reports."""

    @pytest.mark.parametrize("fails", [False, True])
    def test_statistics_reach_the_callback_of_the_settings(self, fails: bool) -> None:
        told: list[str] = []

        def note(statistics: str) -> None:
            told.append(statistics)
            if fails:
                raise ValueError("a callback that fails")

        properties = {"bootstrap.servers": "127.0.0.1:1", "statistics.interval.ms": 20}
        client = new_client(Producer, Properties({**properties, "stats_cb": note}), "x")
        deadline = time.monotonic() + 30
        while len(told) < 2 and time.monotonic() < deadline:
            client.poll(0.05)
        assert len(told) >= 2
