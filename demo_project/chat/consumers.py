"""The websocket of one page: one person in one room.

Frames are JSON objects with a `type`. A browser sends

    say           {"id", "text"}: to the room; a text like /roll 3d6 also starts a background job
    direct        {"id", "to": {"id", "name"}, "text"}: to all pages of one person
    typing        {}: to the others in the room; too many are dropped without a word
    who           {}: calls the roll, which each page of the room answers with a `here`
    probe         {"id"}: has the layer carry an `echo` to this connection

and receives

    welcome       {"worker", "process", "kafka", "room", "you", "connection"}: it is in its
                  room from here on; `kafka` says whether its worker reaches a broker
    message       {"id", "author", "text", "sent_at", "sent_by", "delivered_by", "transit_ms"};
                  from a job also "answers": {"id", "person", "command"}
    direct        the same and "to": sent to its person, or by its person in any page
    announcement  {"id", "text", "sent_at", "sent_by", "delivered_by", "transit_ms"}
    typing        {"person"}
    joined, left  {"member": {"connection", "tab", "person", "worker"}}: never about itself
    here          {"member"}: an answer to `who`, also from itself
    echo          {"id"}: the probe came back through Kafka
    worker        {"worker", "process", "pages", "per_second"}: one of the workers is alive
    kafka         {"connected", "seconds"}: this worker lost Kafka, or has it again
    problem       {"text", "id"}: why a frame did nothing, the message with this id if it was
                  one; the connection goes on
    refusal       {"text"}: why the connection ends; connecting again would not help

`sent_by` and `delivered_by` name the workers at both ends of a message's way. The address has
the person (`?as=`) and may have a name for the page (`&tab=`), by which the others know it
again when it reconnects. A page that comes back to a worker with more pages than another one is
closed at once, once at most: the next connection may lead to that one. Whoever sends a message
may give it an id of 16 hexadecimal digits: what is sent twice with one id arrives once.

A page that comes back gets all messages that it missed, in their order, between its `welcome` and
what is new. Where that is not possible it is told so, and gets the last messages.
"""

import asyncio
import contextlib
import json
import re
import secrets
import time
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings

from kafka_layer.consumers import AsyncRecoveryConsumerMixin, AsyncUserConsumerMixin
from kafka_layer.exceptions import HistoryUnavailable, KafkaLayerError
from kafka_layer.messages import Recovery

from . import commands, crash, jobs, messages, people, process, reports, rules
from .presence import PresenceMixin

CLOSE_REFUSED = 4400
"""The close code after a refusal, from the range that RFC 6455 leaves to applications."""

CLOSE_CROWDED = 4503
"""The close code for a page that should try whether another worker takes it."""

HISTORY_LENGTH = 50
"""How many messages a page gets that cannot have all it missed."""

HISTORY_PAUSE = 1.0
"""Seconds between two questions for these while Kafka cannot be asked."""

_TAB = re.compile(r"[a-z0-9]{1,16}", re.ASCII)
_MAX_PROBE_LENGTH = 16
_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)


class ChatConsumer(  # type: ignore[misc]
    AsyncRecoveryConsumerMixin, AsyncUserConsumerMixin, PresenceMixin, AsyncJsonWebsocketConsumer
):
    """Joins the room's group, sends what its person says there and delivers what others say."""

    # Reports of workers count, too.
    recovery_limit = 1000
    group = ""
    """The group this connection is a member of; empty before it joined."""
    person: people.Person
    """Who sits before the page; not there before it joined."""

    def get_user_id(self) -> str | None:
        """Tell the mixin under which id direct messages reach this connection."""
        person = self._find_person()
        return None if person is None else person.id

    async def connect(self) -> None:
        self.talk_limit = rules.RateLimit(burst=10, per_second=2)
        self.typing_limit = rules.RateLimit(burst=3, per_second=1)
        self.probe_limit = rules.RateLimit(burst=3, per_second=1)
        try:
            room = rules.clean_room(self.scope["url_route"]["kwargs"]["room"])
            person = self._find_person()
            if person is None:
                raise rules.Invalid("The chat does not know you any more. Please join again.")
        except rules.Invalid as invalid:
            # Rejecting the handshake instead would hide the reason from the page.
            await self.accept()
            await self.send_json({"type": "refusal", "text": str(invalid)})
            await self.close(CLOSE_REFUSED)
            return
        connection = secrets.token_hex(6)
        named = self._query("tab")
        tab = named if _TAB.fullmatch(named) else connection
        if self.offered_position is not None and process.pages.send_on(tab):
            await self.accept()
            await self.close(CLOSE_CROWDED)
            return
        group = rules.group_name(room)
        await self.channel_layer.group_add(group, self.channel_name)
        await self.channel_layer.group_add(reports.GROUP, self.channel_name)
        await self.accept()
        self.group, self.person = group, person
        self.member = {
            "connection": connection,
            "tab": tab,
            "person": asdict(person),
            "worker": settings.DEMO_WORKER,
        }
        # Noted first: whatever happens to Kafka from here on, the page hears of it.
        process.pages.add(self)
        await self.deliver(
            {
                "type": "welcome",
                "worker": settings.DEMO_WORKER,
                "process": process.ID,
                "kafka": self.channel_layer.stats().state != "disconnected",
                "room": room,
                "you": asdict(person),
                "connection": connection,
            }
        )
        await self.announce_arrival()

    async def disconnect(self, code: int) -> None:
        process.pages.discard(self)
        if self.group:
            await self.channel_layer.group_discard(self.group, self.channel_name)
            await self.channel_layer.group_discard(reports.GROUP, self.channel_name)
            await self.announce_departure()

    # What a page missed

    async def dispatch(self, message: Any) -> None:
        """Leave out what was of interest only then: who typed, which worker was how busy."""
        if not getattr(message, "replayed", False) or message["type"] in messages.LASTING:
            await super().dispatch(message)

    async def not_recovered(self, recovery: Recovery) -> None:
        """Hand the last messages to the page, when Kafka can be asked for them."""
        layer = self.channel_layer
        while True:
            try:
                histories = await asyncio.gather(
                    layer.group_history(self.group, limit=1000),
                    layer.user_history(self.person.id, limit=HISTORY_LENGTH),
                    layer.all_history(limit=HISTORY_LENGTH),
                )
                break
            except HistoryUnavailable:
                await asyncio.sleep(HISTORY_PAUSE)
        found = [
            message
            for history in histories
            for message in history.messages
            if message["type"] in messages.LASTING
        ]
        found.sort(key=lambda message: message.timestamp)
        await self.replay(found[-HISTORY_LENGTH:])

    # From the browser

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        if not self.group:  # refused, and the close is on its way
            return
        frame: object = None
        try:
            frame = _parse(text_data)
            await self._handle(frame)
        except rules.Invalid as invalid:
            await self._complain(str(invalid), frame)
        except (ChannelFull, KafkaLayerError):
            await self._complain("The chat cannot take that right now. Please try again.", frame)

    async def _complain(self, text: str, frame: object) -> None:
        await self.deliver({"type": "problem", "text": text, "id": _id_of(frame)})

    async def _handle(self, frame: object) -> None:
        match frame:
            case {"type": "typing"}:
                if self.typing_limit.allows():
                    await self._tell_typing()
                return
            case {"type": "probe", "id": str(name)} if len(name) <= _MAX_PROBE_LENGTH:
                if self.probe_limit.allows():
                    await self._echo(name)
                return
        if not self.talk_limit.allows():
            raise rules.Invalid("That was a bit fast. Please wait a second.")
        match frame:
            case {"type": "say", "text": str(text)}:
                await self._say(rules.clean_text(text), _id_of(frame) or messages.new_id())
            case {"type": "direct", "to": {"id": str(to), "name": str(name)}, "text": str(text)}:
                person = people.named(to, name)
                await self._say_to(person, rules.clean_text(text), _id_of(frame))
            case {"type": "who"}:
                await self.call_roll()
            case _:
                raise rules.Invalid("This page sent something that the chat does not know.")

    async def _say(self, text: str, message_id: str) -> None:
        job = commands.parse(text)
        message = messages.chat_message(self.person, text, message_id)
        key = self._key(message_id)
        await self.channel_layer.group_send(self.group, message, idempotency_key=key)
        if job is not None:
            answers = {"id": message_id, "person": asdict(self.person), "command": text}
            await self.channel_layer.send(
                jobs.CHANNEL, job | {"group": self.group, "answers": answers}
            )

    async def _say_to(self, to: people.Person, text: str, message_id: str | None) -> None:
        # To the pages of both, so that one's own other pages show it too.
        message = messages.direct(self.person, to, text, message_id)
        key = self._key(message["id"])
        await self.channel_layer.user_send_many(
            {to.id, self.person.id}, message, idempotency_key=key
        )

    def _key(self, message_id: str) -> str:
        """Return by what a message is known again when the page sends it twice."""
        return f"{self.person.id} {message_id}"

    async def _tell_typing(self) -> None:
        typing = {"type": "chat.typing", "person": asdict(self.person)}
        await self.channel_layer.group_send(self.group, typing, exclude=[self.channel_name])

    async def _echo(self, name: str) -> None:
        # One that is lost is no news: the page sends the next.
        with contextlib.suppress(ChannelFull, KafkaLayerError):
            await self.channel_layer.send(self.channel_name, {"type": "chat.echo", "id": name})

    # From the channel layer

    async def chat_message(self, message: dict[str, Any]) -> None:
        await self._deliver_message("message", messages.completed(message))

    async def chat_direct(self, message: dict[str, Any]) -> None:
        await self._deliver_message("direct", message)

    async def chat_announcement(self, message: dict[str, Any]) -> None:
        await self._deliver_message("announcement", message)

    async def chat_echo(self, message: dict[str, Any]) -> None:
        await self.deliver(message | {"type": "echo"})

    async def worker_report(self, message: dict[str, Any]) -> None:
        match message:
            case {"worker": str(name), "pages": int(number), "per_second": float() | int()}:
                process.pages.hear_of(name, number)
                await self.deliver(message | {"type": "worker"})

    async def worker_end(self, message: dict[str, Any]) -> None:
        crash.obey(message)

    async def chat_typing(self, message: dict[str, Any]) -> None:
        await self.deliver(message | {"type": "typing"})

    async def _deliver_message(self, kind: str, message: dict[str, Any]) -> None:
        await self.deliver(_arrived(kind, message))
        process.pages.count_delivery()

    async def deliver(self, frame: dict[str, Any]) -> None:
        """Send a frame to the page; nothing to one that was refused."""
        if self.group:
            await self.send_json(frame)

    def _find_person(self) -> people.Person | None:
        """Return the person that the address names, if this browser may speak for them."""
        return people.find(self.scope["session"], self._query("as"))

    def _query(self, name: str) -> str:
        return parse_qs(self.scope["query_string"].decode("latin-1")).get(name, [""])[0]


def _arrived(kind: str, message: dict[str, Any]) -> dict[str, Any]:
    """Return the frame that tells of a message, and of its way."""
    sent_at = message["sent_at"]
    # All workers of the demo run on one machine, so one clock is at both ends.
    transit = None if sent_at is None else round(max(0.0, time.time() - sent_at) * 1000, 1)
    way = {"delivered_by": settings.DEMO_WORKER, "transit_ms": transit}
    return message | way | {"type": kind}


def _id_of(frame: object) -> str | None:
    """Return the id that a page gave its message, if it is one."""
    match frame:
        case {"id": str(given)} if _ID.fullmatch(given):
            return given
    return None


def _parse(text: str | None) -> object:
    if text is None:
        raise rules.Invalid("The chat understands text only.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise rules.Invalid("This page sent something that is not JSON.") from None
