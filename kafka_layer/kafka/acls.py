"""Which topics a client may read: asked of the broker, because a fetch that is refused is silent.

A consumer without the right gets no records and no exception: the broker's refusals come one by
one among the records, some time after the start.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient  # type: ignore[attr-defined]

from ..config.librdkafka import Properties
from ..config.settings import LayerConfig
from ..exceptions import TopicError
from .clients import new_client
from .log import client_logger
from .properties import rights_properties

__all__ = ["ReadRights"]


class ReadRights:
    """A question about topics, under way; a context manager. One thread at a time.

    It is asked with the consumers' credentials when it is made, and answered while other things
    happen: the connection takes 10 to 80 ms.

    Args:
        config: The layer's settings.
        names: Kafka's names of the topics.
        timeout: Seconds that the brokers get to answer.

    Raises:
        ImproperlyConfigured: If librdkafka refuses a property.
    """

    def __init__(self, config: LayerConfig, names: Sequence[str], timeout: float) -> None:
        # Nothing is logged: the other clients do.
        quiet = {"log_level": 0, "logger": client_logger, "error_cb": lambda error: None}
        self._timeout = timeout
        properties = Properties({**rights_properties(config), **quiet})
        self._client = new_client(AdminClient, properties, "consumer_config")
        self._answers: Mapping[str, Future[Any]] = self._client.describe_topics(
            TopicCollection(list(names)),
            include_authorized_operations=True,
            request_timeout=timeout,
        )

    def __enter__(self) -> ReadRights:  # noqa: PYI034 (Self needs Python 3.11)
        return self

    def __exit__(self, *exception: object) -> None:
        # librdkafka's client has no close() of its own.
        self._client.__exit__(None, None, None)

    def require(self) -> None:
        """Wait for the answer; nothing happens where a broker does not tell.

        Raises:
            TopicError: If this client may not read one of the topics.
        """
        concurrent.futures.wait(self._answers.values(), self._timeout)
        forbidden = [name for name, answer in self._answers.items() if _is_forbidden(answer)]
        if forbidden:
            raise TopicError(
                f"Cannot read {', '.join(forbidden)} (this client has no right to do that; "
                "grant it an ACL for READ)."
            )


def _is_forbidden(answer: Future[Any]) -> bool:
    if not answer.done() or answer.exception() is not None:
        return False
    operations = answer.result().authorized_operations
    # The embedded broker tells nothing.
    return operations is not None and AclOperation.READ not in operations
