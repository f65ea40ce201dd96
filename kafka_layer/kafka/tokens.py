"""OAUTHBEARER tokens: calls the settings' ``oauth_cb`` once for all clients."""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..config.realtime import monotonic, wall_clock
from ..config.threads import Lock, new_future, new_thread
from ..exceptions import BrokerUnavailable

__all__ = ["TokenSource", "token_source"]

logger = logging.getLogger("kafka_layer")

# Seconds that a constructor of confluent_kafka waits for the first token.
_PATIENCE = 10.0
# The part of a token's life for which clients share it. librdkafka asks for a new token after 80 %.
_SHARED_FOR = 0.75
# How many callbacks keep their tokens: settings have one, tests may have many.
_SOURCES = 64

OAuthCallback = Callable[[Any], Any]


class TokenSource:
    """An ``oauth_cb`` for any number of clients; any thread.

    Clients share a token for three quarters of its life, so that clients that start one after
    another, or at the same time, wait for one call. The settings' callback runs in a thread of its
    own: a call that takes too long goes on, and the next client gets its token.

    Args:
        callback: The ``oauth_cb`` of the settings.
        patience: How long a caller waits for a token, in seconds.
    """

    def __init__(self, callback: OAuthCallback, patience: float = _PATIENCE) -> None:
        self._callback = callback
        self._patience = patience
        self._lock = Lock()
        # By sasl.oauthbearer.config: the last call of the callback.
        self._calls: dict[Any, Future[Any]] = {}
        # By the same: until when clients share its token, on monotonic().
        self._shared_until: dict[Any, float] = {}

    def __call__(self, config: Any = None) -> Any:
        """Return what the callback returned, as confluent_kafka expects it.

        Args:
            config: ``sasl.oauthbearer.config``.

        Raises:
            TimeoutError: The callback takes longer than ``patience``.
            Exception: The callback's error.
        """
        return self._call(config).result(self._patience)

    def prefetch(self, config: Any = None) -> None:
        """Fetch a token, so that the next client does not wait for one.

        Raises:
            BrokerUnavailable: There is no good token; the callback's own error is the cause.
        """
        try:
            answer = self(config)
        except concurrent.futures.TimeoutError:
            raise BrokerUnavailable(
                f"oauth_cb has returned no OAUTHBEARER token for {self._patience:.0f} s, and the "
                "Kafka brokers let nobody in without one; look at what oauth_cb asks for it. "
                "The next use of the layer waits for the same call."
            ) from None
        except Exception as error:
            raise BrokerUnavailable(
                f"oauth_cb raised {type(error).__name__} instead of returning an OAUTHBEARER "
                "token, and the Kafka brokers let nobody in without one."
            ) from error
        wrong = _problem(answer)
        if wrong:
            raise BrokerUnavailable(
                f"oauth_cb returned {wrong}; it must return an OAUTHBEARER token, a str, and when "
                "it expires, in seconds since the epoch."
            )

    def _call(self, config: Any) -> Future[Any]:
        with self._lock:
            call = self._calls.get(config)
            if call is None or (call.done() and monotonic() >= self._shared_until[config]):
                call = self._calls[config] = new_future()
                call.set_running_or_notify_cancel()
                new_thread(self._run, "kafka-layer-token", (config, call)).start()
            return call

    def _run(self, config: Any, call: Future[Any]) -> None:
        try:
            answer = self._callback(config)
            shared_until = monotonic() + _SHARED_FOR * _life_of(answer)
        except BaseException as error:
            self._shared_until[config] = 0.0
            call.set_exception(error)
        else:
            self._shared_until[config] = shared_until
            call.set_result(answer)


def _life_of(answer: Any) -> float:
    """Return the seconds until a token expires; 0 if the callback returned no token."""
    try:
        _, expiry, *_ = answer
        return float(expiry) - wall_clock()
    except (TypeError, ValueError):
        return 0.0


def _problem(answer: Any) -> str:
    """Say why an answer is no token, without the token; "" if it is one.

    confluent_kafka would wait for another one for ten seconds, and report a wrong property.
    """
    if not isinstance(answer, tuple):
        return f"a {type(answer).__name__} instead of a tuple"
    if len(answer) < 2:
        return f"a tuple of {len(answer)}"
    token, expiry, *_ = answer
    if not isinstance(token, str) or not isinstance(expiry, (int, float)):
        return f"a tuple of a {type(token).__name__} and a {type(expiry).__name__}"
    life = expiry - wall_clock()
    return "" if life > 0 else f"a token that expired {-life:.0f} s ago"


@functools.lru_cache(_SOURCES)
def token_source(callback: OAuthCallback) -> TokenSource:
    """Return the one token source of a callback, which must be hashable, as functions are."""
    return TokenSource(callback)


if hasattr(os, "register_at_fork"):  # not on Windows
    # A thread of the parent may have been in a call, which never ends in the child.
    os.register_at_fork(after_in_child=token_source.cache_clear)
