"""The messages that travel through the channel layer.

A consumer handles `chat.message` in its method `chat_message`, and so on.

    type                to                        content
    chat.message        a room                    author, text, (answers)
    chat.direct         two people                author, to, text
    chat.announcement   every open channel        text
    chat.typing         a room but the sender     person
    presence.joined     a room but the sender     member
    presence.left       a room but the sender     member
    presence.roll_call  a room                    reply_to: the channel to answer to
    presence.here       one channel               member
    job.…               the worker channel jobs   see `jobs`

A person is {"id", "name"}; an author without an id is a program. A member is one open page:
{"connection", "tab", "person", "worker"}. The first three types also have an id, `sent_at`
(seconds since 1970) and `sent_by` (a worker).

Any program that can write to Kafka can talk, too. All that a room's message needs then is
a type and a text:

    topic demo-send-group, key room-lobby, value {"type": "chat.message", "text": "Hello"}
"""

import secrets
import time
from dataclasses import asdict
from typing import Any

from django.conf import settings

from .people import Person

Message = dict[str, Any]


def chat_message(author: Person, text: str) -> Message:
    return _stamped("chat.message", author=asdict(author), text=text)


def answer(author: Person, text: str, answers: Message) -> Message:
    """Return a room's message that answers a command; `answers` is {"person", "command"}."""
    return chat_message(author, text) | {"answers": answers}


def direct(author: Person, to: Person, text: str) -> Message:
    return _stamped("chat.direct", author=asdict(author), to=asdict(to), text=text)


def announcement(text: str) -> Message:
    return _stamped("chat.announcement", text=text)


def completed(message: Message) -> Message:
    """Fill in what a program outside Django may leave out of a `chat.message`."""
    author = message.get("author")
    sent_at = message.get("sent_at")
    return {
        **message,
        "id": str(message.get("id", "")),
        "author": {"id": "", "name": "A program", **(author if isinstance(author, dict) else {})},
        "text": str(message.get("text", "")),
        "sent_at": sent_at if isinstance(sent_at, (int, float)) else None,
        "sent_by": message.get("sent_by"),
    }


def _stamped(kind: str, **content: Any) -> Message:
    return {
        "type": kind,
        "id": secrets.token_hex(8),
        "sent_at": time.time(),
        "sent_by": settings.DEMO_WORKER,
        **content,
    }
