"""What `manage.py runworker jobs` does: the background jobs of the chat.

Jobs wait in Kafka until one of the job workers is free. Besides what the command asks for, a
job has the `group` that gets the answer, and `answers`: who asked, and with which words.
"""

import random
from typing import Any

from channels.consumer import SyncConsumer

from . import messages
from .people import program

CHANNEL = "jobs"


class JobConsumer(SyncConsumer):  # type: ignore[misc]
    """Does one job at a time, in a thread, and answers into the room it came from."""

    def job_roll(self, job: dict[str, Any]) -> None:
        rolled = [random.randint(1, job["sides"]) for _ in range(job["dice"])]
        sum_of = f"{' + '.join(map(str, rolled))} = " if len(rolled) > 1 else ""
        self._answer(job, "Dice", f"{sum_of}{sum(rolled)}")

    def job_primes(self, job: dict[str, Any]) -> None:
        limit = job["limit"]
        self._answer(job, "Primes", f"There are {count_primes(limit):,} primes up to {limit:,}.")

    def chat_announcement(self, message: dict[str, Any]) -> None:
        """Ignore it: `all_send` reaches every open channel, and each consumer has one."""

    def _answer(self, job: dict[str, Any], name: str, text: str) -> None:
        message = messages.answer(program(name), text, job["answers"])
        self.channel_layer.group_send_sync(job["group"], message, idempotency_key=message["id"])


def count_primes(limit: int) -> int:
    """Return how many primes there are up to `limit` (20 million: some 0.1 s and 10 MB)."""
    if limit < 2:
        return 0
    # The sieve of Eratosthenes; place i stands for the odd number 2 * i + 1, and 0 for the 2.
    sieve = bytearray([1]) * ((limit + 1) // 2)
    for i in range(1, (int(limit**0.5) + 1) // 2):
        if sieve[i]:
            step = 2 * i + 1
            first = step * step // 2
            sieve[first::step] = bytes(len(range(first, len(sieve), step)))
    return sum(sieve)
