"""Health of this process's layers, for probes: whether they are alive and ready.

``kafka_layer.urls`` has an address for each. Views, commands and checks of a project call these
functions::

    health = kafka_layer.health.ready()
    return JsonResponse(health._asdict(), status=200 if health.ok else 503)

None of them raises an exception. The reasons that they return have no addresses and no secrets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from . import get_layer
from .calls.health import Health, liveness, readiness
from .config.realtime import monotonic
from .delivery.tickets import Steps, run_blocking, run_in_loop
from .layer import KafkaChannelLayer
from .management.installed import backend_of, channel_layers, is_kafka_layer

__all__ = ["Health", "aready", "live", "ready"]

logger = logging.getLogger("kafka_layer")


def live(alias: str | None = None) -> Health:
    """Tell whether this process and the layers' threads run; no I/O.

    The answer does not depend on the brokers: a restart would only lose the messages that wait.

    Args:
        alias: The layer's alias in CHANNEL_LAYERS; None: all Kafka layers.
    """
    try:
        return _together({name: liveness(layer) for name, layer in _layers(alias).items()})
    except Exception as error:
        return _unknown(error)


def ready(alias: str | None = None) -> Health:
    """Tell whether this process reads and writes; blocks for less than a second.

    It does if a record that the server wrote to its own inbox came back within the last 5 seconds;
    otherwise the server writes another one. The first call starts a layer that nothing has used.

    Args:
        alias: As for ``live``.
    """
    try:
        return run_blocking(_readiness(alias))
    except Exception as error:
        return _unknown(error)


async def aready(alias: str | None = None) -> Health:
    """Do what ``ready`` does, in a coroutine; does not block the event loop.

    Args:
        alias: As for ``live``.
    """
    try:
        return await run_in_loop(_readiness(alias))
    except Exception as error:
        return _unknown(error)


def _readiness(alias: str | None) -> Steps[Health]:
    answers: dict[str, Health] = {}
    began = monotonic()
    for name, layer in _layers(alias).items():
        left = began + layer.config.timings.ready_answer - monotonic()
        answers[name] = yield from readiness(layer, max(0.0, left))
    return _together(answers)


def _layers(alias: str | None) -> dict[str, KafkaChannelLayer]:
    names = channel_layers() if alias is None else [alias]
    return {
        name: get_layer(name)
        for name in names
        if alias is not None or is_kafka_layer(backend_of(name))
    }


def _together(answers: Mapping[str, Health]) -> Health:
    if len(answers) == 1:
        return next(iter(answers.values()))
    if not answers:
        return Health(False, "CHANNEL_LAYERS has no layer of kafka_layer.")
    told = " ".join(f"{name}: {each.why}" for name, each in answers.items())
    return Health(all(each.ok for each in answers.values()), told)


def _unknown(error: Exception) -> Health:
    logger.error("The health of the channel layers could not be told", exc_info=error)
    return Health(False, f"{type(error).__name__}; the log says more.")
