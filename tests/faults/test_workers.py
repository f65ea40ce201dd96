"""Worker channels whose commits get no answer: what docs/worker-channels.md says of it."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError

from tests.cluster.workers.clients import use_commits
from tests.faults.traffic import Inbox
from tests.support.layers import Layers, next_message, next_messages
from tests.support.waiting import wait_until_async

JOBS = "jobs"


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TRANSPORT,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    ],
)
async def test_a_commit_that_took_effect_and_was_answered_with_an_error(
    make_layer: Layers, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # As when the connection broke after the commit, and the client repeated it.
    channel = f"{JOBS}.{code}".replace("-", "minus")
    consumers = use_commits(monkeypatch, None)
    layer = make_layer()
    for number in range(5):
        await layer.send(channel, {"n": number})
    first = await next_message(layer, channel)
    committed = len(consumers.committed_positions)

    def commit_and_fail(positions: object, commit: Any) -> KafkaError:
        commit()
        return KafkaError(code)

    consumers.outcome = staticmethod(commit_and_fail)
    worker = Inbox(layer, channel)
    worker.begin()
    await wait_until_async(lambda: len(consumers.committed_positions) > committed, "a commit")
    await worker.close()
    consumers.outcome = None
    await layer.close()
    others = await next_messages(make_layer(), channel, 4)
    assert sorted(each["n"] for each in (first, *others)) == list(range(5))
