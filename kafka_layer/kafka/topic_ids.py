"""Notices that topics of streams were created again, for their producers and workers.

(The readers of a stream check its topics themselves: ``streams.py``.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        # The answers to the last question, until they are taken.
        self._answers: Mapping[str, Future[Any]] = {}
        self._next_question = 0.0

    def follow(self, name: str, listener: OnTold) -> None:
        """Pass the facts of a topic to a listener after each answer; any thread.

        Args:
            name: Kafka's name of the topic.
            listener: Called by ``look``; must not block.
        """
        self._followers.append((name, listener))

    def look(self) -> None:
        """Take the answers that came, and ask again if that is due; one thread, never blocks.

        Without an answer no listener is called.
        """
        now = monotonic()
        due = now >= self._next_question
        if self._answers and (due or all(each.done() for each in self._answers.values())):
            self._take_answers()
        if due and self._followers:
            self._next_question = now + self._interval
            try:
                names = {name for name, _ in tuple(self._followers)}
                self._answers = self._watch.ask(names, self._timeout)
            except KafkaException:
                # The client itself refuses the question, for example without a token.
                return

    def _take_answers(self) -> None:
        told, _ = read_answers(self._answers, 0.0)
        self._answers = {}
        moved = self._known.learn(told)
        for name, listener in tuple(self._followers):
            if name in told:
                listener(self._known.topics[name], name in moved)
