"""What names and messages may look like, and how fast one connection may send. No I/O.

Each `clean_…` function returns the value as the chat uses it, or raises `Invalid` with a
sentence for the person who typed it.
"""

import re
import time
import unicodedata
from collections.abc import Callable

MAX_NAME_LENGTH = 32
MAX_ROOM_LENGTH = 48
MAX_TEXT_LENGTH = 2000

# A room's name becomes part of a group name, for which Channels allows these alone.
_ROOM = re.compile(r"[a-z0-9][a-z0-9._-]*", re.ASCII)


class Invalid(ValueError):
    """Something a person typed cannot be used; `str()` of it says why."""


def clean_room(value: str) -> str:
    """Return a room's name: lower case, with hyphens in place of spaces."""
    room = "-".join(value.lower().split())
    if not room:
        raise Invalid("Please name a room.")
    if len(room) > MAX_ROOM_LENGTH:
        raise Invalid(f"A room's name has at most {MAX_ROOM_LENGTH} characters.")
    if not _ROOM.fullmatch(room):
        raise Invalid(
            "A room's name is made of the letters a to z, digits, hyphens, underscores and "
            "periods, and starts with a letter or a digit."
        )
    return room


def clean_name(value: str) -> str:
    """Return a person's name: any script, single spaces, nothing invisible."""
    name = " ".join(unicodedata.normalize("NFC", value).split())
    if not name:
        raise Invalid("Please tell us a name.")
    if len(name) > MAX_NAME_LENGTH:
        raise Invalid(f"A name has at most {MAX_NAME_LENGTH} characters.")
    if any(unicodedata.category(character).startswith("C") for character in name):
        raise Invalid("A name is made of visible characters.")
    return name


def clean_text(value: str) -> str:
    """Return a message's text without the white space around it."""
    text = value.strip()
    if not text:
        raise Invalid("There is nothing to send.")
    if len(text) > MAX_TEXT_LENGTH:
        raise Invalid(f"A message has at most {MAX_TEXT_LENGTH} characters.")
    # JSON can spell half a character ("\ud83d"), which no encoding can carry further.
    if any(unicodedata.category(character) == "Cs" for character in text):
        raise Invalid("The message has a broken character in it.")
    return text


def group_name(room: str) -> str:
    """Return the channel layer's group of everyone in `room`."""
    return f"room-{room}"


class RateLimit:
    """A token bucket: `burst` actions at once, `per_second` in the long run."""

    def __init__(
        self, *, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock()

    def allows(self) -> bool:
        """Count one action and say whether it is within the limit."""
        now = self._clock()
        earned = (now - self._filled_at) * self._per_second
        self._tokens = min(self._burst, self._tokens + earned)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
