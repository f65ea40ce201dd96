"""Asks the broker which topics a client may read, because a refused fetch is silent.

A consumer without the right gets no records and no exception: the broker's refusals come one by one
among the records, some time after the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]

from ..config.threads import wait_for_futures
from ..exceptions import TopicError

__all__ = ["require_read"]


def require_read(answers: Mapping[str, Future[Any]], timeout: float) -> None:
    """Check the rights in a broker's answers; accept answers without rights, and missing ones.

    Args:
        answers: Descriptions to come, with the authorized operations of the client, by Kafka's
            names of the topics.
        timeout: Seconds that this may block.

    Raises:
        TopicError: If the client may not read one of the topics.
    """
    wait_for_futures(answers.values(), timeout)
    forbidden = [name for name, answer in answers.items() if _is_forbidden(answer)]
    if forbidden:
        raise TopicError(
            f"Cannot read {', '.join(forbidden)} (this client has no right to do that; "
            "grant it an ACL for READ)."
        )


def _is_forbidden(answer: Future[Any]) -> bool:
    if not answer.done() or answer.exception() is not None:
        return False
    operations = answer.result().authorized_operations
    # The embedded broker returns None.
    return operations is not None and AclOperation.READ not in operations
