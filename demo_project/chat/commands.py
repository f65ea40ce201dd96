"""Messages that start with a slash: which background job they ask for. No I/O."""

import re
from typing import Any

from .rules import Invalid

MAX_DICE = 20
MAX_SIDES = 1000
MAX_LIMIT = 20_000_000

_ROLL = re.compile(r"/roll(?: +(\d{1,3})?d(\d{1,5}))?", re.ASCII)
_PRIMES = re.compile(r"/primes +(\d[\d,]{0,15})", re.ASCII)


def parse(text: str) -> dict[str, Any] | None:
    """Return the job that a message asks for, or None if it is a message like any other.

    Raises:
        Invalid: There is no such command, or it asks for too much.
    """
    if not text.startswith("/"):
        return None
    if match := _ROLL.fullmatch(text):
        dice, sides = int(match[1] or 1), int(match[2] or 6)
        if not (1 <= dice <= MAX_DICE and 2 <= sides <= MAX_SIDES):
            raise Invalid(f"Up to {MAX_DICE} dice can be rolled, with 2 to {MAX_SIDES} sides.")
        return {"type": "job.roll", "dice": dice, "sides": sides}
    if match := _PRIMES.fullmatch(text):
        limit = int(match[1].replace(",", ""))
        if limit > MAX_LIMIT:
            raise Invalid(f"Primes are counted up to {MAX_LIMIT:,}.")
        return {"type": "job.primes", "limit": limit}
    raise Invalid("The commands are /roll 3d6 and /primes 1000000.")
