"""Who is chatting: the people whom one browser session speaks for.

There are no accounts. A session, a signed cookie, remembers each name that was chosen in
this browser under an id of its own, and a page says with `?as=id` which of them it is. So
two tabs can be two people, a reload or a reconnect keeps the name, and nobody can take an
id that another browser was given.
"""

import re
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from .rules import Invalid, clean_name

_SESSION_KEY = "people"
# The whole session travels in one cookie of at most 4 KB.
_MAX_PEOPLE = 8
_ID_BYTES = 6
_ID = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}", re.ASCII)


@dataclass(frozen=True)
class Person:
    """Someone with a name. The id is the same on every worker and page; a program has none."""

    id: str
    name: str


def remember(session: MutableMapping[str, Any], name: str) -> Person:
    """Return the session's person called `name`, made on first use."""
    people: dict[str, str] = session.get(_SESSION_KEY, {})
    for person_id, known in people.items():
        if known == name:
            return Person(person_id, name)
    person = Person(secrets.token_hex(_ID_BYTES), name)
    newest = [*people.items(), (person.id, person.name)][-_MAX_PEOPLE:]
    session[_SESSION_KEY] = dict(newest)
    return person


def find(session: MutableMapping[str, Any], person_id: str) -> Person | None:
    """Return the session's person with this id, or None if it has no such person."""
    name = session.get(_SESSION_KEY, {}).get(person_id)
    return None if name is None else Person(person_id, name)


def named(person_id: str, name: str) -> Person:
    """Return somebody else, as a page calls them.

    Raises:
        Invalid: Nobody can be called that.
    """
    if not _ID.fullmatch(person_id):
        raise Invalid("There is nobody like that.")
    return Person(person_id, clean_name(name))


def program(name: str) -> Person:
    """Return an author who is nobody: a job, a script."""
    return Person("", name)
