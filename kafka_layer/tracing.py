"""Traces: each handler of a message runs in a span that is linked to the span of the send.

With ``"tracing": True`` in CONFIG (``kafka-layer[opentelemetry]``) this module wraps ``dispatch``
of Channels' consumers, so that their handlers run in such spans. A program that calls ``receive``
itself writes ``with handling(message):``. docs/operations.md explains the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from channels.consumer import AsyncConsumer, SyncConsumer

__all__ = ["handling", "trace_consumers"]


def handling(message: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return a context manager in which the code that handles a message runs.

    Args:
        message: What ``receive`` or ``receive_job`` returned. For other messages, and without
            ``tracing``, the context manager does nothing.
    """
    traced_by = getattr(message, "traced_by", None)
    if traced_by is None:
        return nullcontext()
    within: AbstractContextManager[None] = traced_by.process(message)
    return within


def trace_consumers() -> None:
    """Let Channels' consumers handle messages within ``handling``; idempotent.

    The first layer with ``tracing`` calls it. It wraps both classes, because ``SyncConsumer`` has a
    ``dispatch`` of its own.
    """
    for consumer in (AsyncConsumer, SyncConsumer):
        dispatch = vars(consumer)["dispatch"]
        if not hasattr(dispatch, "__wrapped_by_kafka_layer__"):
            setattr(consumer, "dispatch", _traced(dispatch))  # noqa: B010


def _traced(dispatch: Any) -> Callable[[Any, Mapping[str, Any]], Awaitable[None]]:
    @functools.wraps(dispatch, updated=())
    async def traced(self: Any, message: Mapping[str, Any]) -> None:
        with handling(message):
            await dispatch.__get__(self, type(self))(message)

    setattr(traced, "__wrapped_by_kafka_layer__", True)  # noqa: B010
    return traced
