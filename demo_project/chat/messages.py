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
    chat.echo           the channel that asked    id
    worker.report       every page                worker, process, pages, per_second
    worker.end          every page                process: the one that is to end
    job.…               the worker channel jobs   see `jobs`

A person is {"id", "name"}; an author without an id is a program. A member is one open page:
{"connection", "tab", "person", "worker"}. The first three types also have an id, `sent_at`
(seconds since 1970) and `sent_by` (a worker). A page that lost its worker sends again what did
not come back, with the same id, which is the message's idempotency key: it arrives once.

Any program that can write to Kafka can talk, too. All that a room's message needs then is
a type and a text:

    topic demo-send-group, key room-lobby, value {"type": "chat.message", "text": "Hello"}
"""

import secrets
import time
from dataclasses import asdict
from typing import Any

from django.conf import settings

from . import process
from .people import Person

Message = dict[str, Any]

LASTING = frozenset({"chat.message", "chat.direct", "chat.announcement"})
"""The types of which a page that was away gets those that it missed."""


def new_id() -> str:
    return secrets.token_hex(8)


def chat_message(author: Person, text: str, message_id: str | None = None) -> Message:
    return _stamped("chat.message", message_id, author=asdict(author), text=text)


def answer(author: Person, text: str, answers: Message) -> Message:
    """Return a room's message that answers a command: {"id", "person", "command"}.

    A command that was sent twice gets two answers with the same id.
    """
    return chat_message(author, text, f"{answers['id']}-answer") | {"answers": answers}


def direct(author: Person, to: Person, text: str, message_id: str | None = None) -> Message:
    return _stamped("chat.direct", message_id, author=asdict(author), to=asdict(to), text=text)


def announcement(text: str) -> Message:
    return _stamped("chat.announcement", text=text)


def report(*, pages: int, per_second: float) -> Message:
    """Return what this worker tells about itself: open pages, messages handed to them."""
    return {
        "type": "worker.report",
        "worker": settings.DEMO_WORKER,
        "process": process.ID,
        "pages": pages,
        "per_second": round(per_second, 2),
    }


def end(process_id: str) -> Message:
    return {"type": "worker.end", "process": process_id}


def completed(message: Message) -> Message:
    """Fill in what a program outside Django may leave out of a `chat.message`."""
    author = message.get("author")
    sent_at, sent_by = message.get("sent_at"), message.get("sent_by")
    return {
        **message,
        "id": str(message.get("id", "")),
        "author": {"id": "", "name": "A program", **(author if isinstance(author, dict) else {})},
        "text": str(message.get("text", "")),
        "sent_at": sent_at if isinstance(sent_at, (int, float)) else None,
        "sent_by": sent_by if isinstance(sent_by, str) else None,
    }


def _stamped(kind: str, message_id: str | None = None, **content: Any) -> Message:
    return {
        "type": kind,
        "id": message_id or new_id(),
        "sent_at": time.time(),
        "sent_by": settings.DEMO_WORKER,
        **content,
    }
