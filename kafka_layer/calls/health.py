"""Whether the server of a layer is alive, and whether it reads and writes."""

from __future__ import annotations

import logging
from typing import NamedTuple

from channels.exceptions import ChannelFull

from ..delivery.tickets import Steps, wait, within
from ..exceptions import BrokerUnavailable, KafkaLayerError, LayerClosed, TopicError
from ..server.lifecycle import State
from .current_server import ServerHolder

__all__ = ["Health", "liveness", "readiness"]

logger = logging.getLogger("kafka_layer")


class Health(NamedTuple):
    """An answer to a health probe.

    Attributes:
        ok: Whether all is well.
        why: The reason, a sentence that anybody may read: it has no addresses and no secrets.
    """

    ok: bool
    why: str


def liveness(layer: ServerHolder) -> Health:
    """Tell whether the threads of a layer's server run; no I/O, never raises."""
    server = layer._server
    dead = server.dead_threads
    if dead:
        return Health(False, f"{_listed(dead)} ended unexpectedly.")
    if not server.lifecycle.started or server.lifecycle.ended:
        return Health(True, "Nothing has used the layer yet.")
    if not server.transport.health().connected:
        return Health(True, "No Kafka broker can be reached; messages wait here until one can.")
    return Health(True, "All threads run.")


def readiness(layer: ServerHolder, within_seconds: float) -> Steps[Health]:
    """Tell whether a layer's server reads and writes; starts it if need be. Never raises.

    Args:
        layer: The layer.
        within_seconds: How long this may take. A start or a round trip that takes longer goes on,
            and a later call finds its result.
    """
    try:
        return (yield from within(within_seconds, _round_trip(layer)))
    except TimeoutError:
        if not layer._server.receiving:
            return Health(False, "The layer is starting, or finds no Kafka broker.")
        return Health(False, "A record that went to Kafka did not come back in time.")
    except LayerClosed:
        return Health(False, "The layer is closing.")
    except ChannelFull:
        return Health(False, "The producer's queue is full.")
    except KafkaLayerError as error:
        # The text may have addresses, so only the log has it.
        logger.warning("The layer with prefix %s is not ready: %s", layer.config.prefix, error)
        return Health(False, f"{_reason(error)}; the log says more.")
    except Exception as error:
        logger.exception("The layer's health could not be told")
        return Health(False, f"{type(error).__name__}; the log says more.")


def _round_trip(layer: ServerHolder) -> Steps[Health]:
    if layer._server.lifecycle.state is State.CLOSING:
        raise LayerClosed
    server = yield from layer._receiving_server()
    dead = server.dead_threads
    if dead:
        return Health(False, f"{_listed(dead)} ended unexpectedly.")
    if not server.transport.health().connected:
        return Health(False, "No Kafka broker can be reached.")
    trip = server.round_trips.fresh
    if trip is None:
        trip = yield from wait(server.round_trips.begin())
    took = f"{trip.seconds * 1000:.1f} ms, {trip.age:.1f} s ago"
    return Health(True, f"A record went to Kafka and came back in {took}.")


def _reason(error: KafkaLayerError) -> str:
    if isinstance(error, BrokerUnavailable):
        return "No Kafka broker answers, or the brokers refuse this server"
    if isinstance(error, TopicError):
        return "A topic is missing, or this server may not use it"
    return type(error).__name__


def _listed(threads: list[str]) -> str:
    return f"The thread{'s' if len(threads) > 1 else ''} {', '.join(threads)}"
