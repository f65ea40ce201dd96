"""Consumers that stand in for those of worker channels, and fail as a test wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from kafka_layer.kafka.worker_group import client
from tests.support.silence import MutedConsumer

__all__ = ["CommittingConsumer", "NotedConsumer", "use", "use_commits"]

K = TypeVar("K", bound="NotedConsumer")


class NotedConsumer(MutedConsumer):
    """Is known to the test.

    Attributes:
        made: All that were made, in order.
    """

    made: ClassVar[list[Any]]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.made.append(self)


def use(kind: type[K], monkeypatch: pytest.MonkeyPatch) -> type[K]:
    """Have worker channels make consumers of this kind; returns a class of this test alone."""
    own = type(kind.__name__, (kind,), {"made": []})
    monkeypatch.setattr(client, "Consumer", own)
    return own


class CommittingConsumer(NotedConsumer):
    """Commits, and tells the test what the answer is to be.

    Attributes:
        committed_positions: What was to be committed, in order.
        outcome: Gets the positions of a commit, and a function that commits them; returns the
            error that the commit is to have, if any. None: as it comes.
    """

    committed_positions: ClassVar[list[dict[int, int]]]
    outcome: ClassVar[Callable[[dict[int, int], Callable[[], object]], KafkaError | None] | None]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> Any:
        positions = {each.partition: each.offset for each in offsets}
        commit = lambda: super(CommittingConsumer, self).commit(  # noqa: E731
            offsets=offsets, asynchronous=asynchronous
        )
        type(self).committed_positions.append(positions)
        outcome = type(self).outcome
        if outcome is None:
            return commit()
        error = outcome(positions, commit)
        if error is not None:
            raise KafkaException(error)
        return offsets


def use_commits(
    monkeypatch: pytest.MonkeyPatch,
    outcome: Callable[[dict[int, int], Callable[[], object]], KafkaError | None] | None,
) -> type[CommittingConsumer]:
    """Have the commits of worker channels end as ``outcome`` says."""
    kind = use(CommittingConsumer, monkeypatch)
    kind.committed_positions = []
    kind.outcome = None if outcome is None else staticmethod(outcome)
    return kind
