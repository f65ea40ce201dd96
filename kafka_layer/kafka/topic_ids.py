"""Notices that topics of streams were created again, for their producers and workers.

(The readers of a stream check its topics themselves: ``streams.py``.)
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException

from ..config.realtime import monotonic
from ..config.timings import Timings
from .topics import KnownTopic, KnownTopics, TopicWatch, read_answers

__all__ = ["OnTold", "TopicIds"]

OnTold = Callable[[KnownTopic, bool], object]
"""Gets the facts of a topic, and whether it was just created again with partitions on other
brokers."""


class TopicIds:
    """Asks for the facts of topics, and passes them to listeners.

    Args:
        watch: The client that asks; its owner closes it.
        timings: The interval of the questions, and the time-out of each.
    """

    def __init__(self, watch: TopicWatch, timings: Timings) -> None:
        self._watch = watch
        self._interval = timings.topics
        self._timeout = timings.request
        self._known = KnownTopics()
        self._followers: list[tuple[str, OnTold]] = []
        # The answers to questions, in the order of these, until they are taken.
        self._answers: deque[Mapping[str, Future[Any]]] = deque()
        self._next_question = 0.0

    def ask(self, names: Collection[str]) -> None:
        """Ask for topics now, for ``look`` to take the answers; any thread, never blocks.

        A topic was created again if its id differs from the first one that was told. So a listener
        whose client may know the topic asks before that client learns of it.

        Args:
            names: Kafka's names of the topics.
        """
        # Fails if the client itself refuses the question, for example without a token.
        with contextlib.suppress(KafkaException):
            self._answers.append(self._watch.ask(names, self._timeout))

    def follow(self, name: str, listener: OnTold) -> None:
        """Pass the facts of a topic to a listener after each answer; any thread.

        Args:
            name: Kafka's name of the topic.
            listener: Called by ``look``; must not block.
        """
        self._followers.append((name, listener))

    def look(self) -> None:
        """Take the answers that came, and ask again if that is due; one thread, never blocks.

        Without an answer no listener is called. Topics of which nothing is known yet are asked for
        at each call.
        """
        now = monotonic()
        due = now >= self._next_question
        while self._answers and (due or _all_done(self._answers[0])):
            self._take(self._answers.popleft())
        names = {name for name, _ in tuple(self._followers)}
        if due:
            self._next_question = now + self._interval
        elif self._answers:
            return
        else:
            names -= self._known.topics.keys()
        if names:
            self.ask(names)

    def _take(self, answers: Mapping[str, Future[Any]]) -> None:
        told, _ = read_answers(answers, 0.0)
        moved = self._known.learn(told)
        for name, listener in tuple(self._followers):
            if name in told:
                listener(self._known.topics[name], name in moved)


def _all_done(answers: Mapping[str, Future[Any]]) -> bool:
    return all(each.done() for each in answers.values())
