"""Commands between servers and their answers.

They travel on ``group-mgmt`` and ``ack`` and, for ``flush``, on ``send-all``. A command names
everything in its value, so that encryption covers all of it. Nothing here does I/O:
``Commands`` makes records and judges them, its owner carries them.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..config.realtime import monotonic
from ..delivery.registry import Registry
from ..exceptions import CommandFailed, UnreadableRecord
from ..wire.codec import Codec
from ..wire.encryption import Encryption
from ..wire.names import ServerName, parse_server_name
from ..wire.records import ProducerRecord
from ..wire.topics import Topic
from .clock import BrokerClock

__all__ = ["Commands"]

_HELLO = "hello"
_FLUSH = "flush"
_WHO = "who"


class Commands:
    """The commands that one server asks of others, and those that others ask of it.

    Args:
        codec: Encodes and decodes the values.
        encryption: Encrypts them.
        registry: What the commands change.
        clock: Tells the age of a command.
        answer: Sends an answer; called in the thread that read the command.
        flush: Carries out a flush that another server asked for; gets its timestamp.
    """

    def __init__(
        self,
        codec: Codec,
        encryption: Encryption,
        registry: Registry,
        clock: BrokerClock,
        answer: Callable[[ProducerRecord], None],
        flush: Callable[[float], None],
    ) -> None:
        self._codec = codec
        self._encryption = encryption
        self._registry = registry
        self._clock = clock
        self._answer = answer
        self._flush = flush
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._asked: dict[int, _Asked] = {}
        self.server: ServerName | None = None
        self.handlers = {
            Topic.GROUP_MGMT: self._on_command,
            Topic.ACK: self._on_answer,
            Topic.SEND_ALL: self._on_command_to_all,
        }

    @property
    def name(self) -> ServerName:
        """The server's name; there is one once it receives."""
        if self.server is None:
            raise RuntimeError("the server has no name before it receives")
        return self.server

    def ask(
        self, owner: ServerName, command: str, name: str, channel: str, within: float
    ) -> Question:
        """Make a command for another server.

        Args:
            owner: The server that owns the channel.
            command: As in ``Registry.change``, with ``name`` and ``channel``.
            name: The group or user.
            channel: The channel.
            within: Seconds after which the owner is not to carry it out any more.
        """
        value = {
            "command": command,
            "name": name,
            "channel": channel,
            "reply_to": str(self.name),
            "within": within,
        }
        return self._question(Topic.GROUP_MGMT, owner, value)

    def hello(self) -> Question:
        """Make a record that comes back to this server itself."""
        return self._question(Topic.ACK, self.name, {"command": _HELLO})

    def probe(self) -> ProducerRecord:
        """Make a record that nobody reads; its delivery report tells the broker's time."""
        return self._sealed(Topic.ACK, ServerName(0, "probe"), {})

    def roll_call(self) -> RollCall:
        """Make the record that asks every server to tell its name and what is on it."""
        number = next(self._ids)
        value = {"command": _WHO, "id": number, "reply_to": str(self.name)}
        call = RollCall(self, number, self._to_all(_WHO, value))
        with self._lock:
            self._asked[number] = call
        return call

    def flush(self) -> ProducerRecord:
        """Make the record that tells every other server to clear."""
        return self._to_all(_FLUSH, {"command": _FLUSH, "server": str(self.server)})

    def withdraw(self, number: int) -> bool:
        """Forget a question; tells whether it was still open."""
        with self._lock:
            return self._asked.pop(number, None) is not None

    def _question(self, topic: Topic, to: ServerName, value: dict[str, Any]) -> Question:
        number = next(self._ids)
        question = Question(self, number, self._sealed(topic, to, {**value, "id": number}))
        with self._lock:
            self._asked[number] = question
        return question

    def _sealed(self, topic: Topic, to: ServerName, value: dict[str, Any]) -> ProducerRecord:
        key = str(to)
        return (
            topic,
            key,
            self._encryption.encrypt(topic, key, self._codec.encode(value)),
            to.partition,
            (),
        )

    def _to_all(self, command: str, value: dict[str, Any]) -> ProducerRecord:
        # The header tells it from a message to all; the value repeats it, under encryption.
        headers = [("command", command.encode())]
        payload = self._encryption.encrypt(Topic.SEND_ALL, None, self._codec.encode(value))
        return Topic.SEND_ALL, None, payload, None, headers

    def _on_command(self, key: str, payload: bytes, written: float) -> None:
        if key != str(self.server):
            return
        value = self._codec.decode(payload)
        within, age = value.get("within"), self._clock.now() - written
        if isinstance(within, (int, float)) and age > within:
            # Whoever asked was told that it failed.
            raise UnreadableRecord("expired", f"a command that came {age:.1f} s late: {value!r}")
        answer = {"id": value.get("id")}
        try:
            self._registry.change(
                *(str(value.get(each)) for each in ("command", "name", "channel"))
            )
        except ValueError as error:
            answer["error"] = str(error)
        except Exception as error:
            # A bug, which the caller counts and logs; who asked must not wait for the time-out.
            answer["error"] = repr(error)
            raise
        finally:
            self._reply(value, answer)

    def _on_answer(self, key: str, payload: bytes, written: float) -> None:
        if key != str(self.server):
            return
        value = self._codec.decode(payload)
        number = value.get("id")
        with self._lock:
            question = self._asked.get(number) if isinstance(number, int) else None
        if question is not None:
            question.take(value, written)

    def _on_command_to_all(self, key: str, payload: bytes, written: float) -> None:
        value = self._codec.decode(payload)
        if value.get("command") == _FLUSH and value.get("server") != str(self.server):
            self._flush(written)
        elif value.get("command") == _WHO:
            answer = {
                "id": value.get("id"),
                "server": str(self.server),
                "channels": len(self._registry.open_channels()),
                "groups": len(self._registry.groups),
                "users": len(self._registry.users),
            }
            self._reply(value, answer)

    def _reply(self, value: dict[str, Any], answer: dict[str, Any]) -> None:
        asker = parse_server_name(str(value.get("reply_to")))
        if asker is None:
            raise UnreadableRecord("undecodable", f"a command without a reply_to: {value!r}")
        self._answer(self._sealed(Topic.ACK, asker, answer))


class _Asked:
    """Something that waits for answers under a number.

    Attributes:
        record: What to write.
    """

    def __init__(self, commands: Commands, number: int, record: ProducerRecord) -> None:
        self._commands = commands
        self._number = number
        self.record = record

    def take(self, answer: dict[str, Any], written: float) -> None:
        """Take an answer and its record's timestamp; the thread that reads."""
        raise NotImplementedError

    def forget(self) -> None:
        """Stop waiting; an answer that comes later is ignored."""
        self._commands.withdraw(self._number)


class Question(_Asked):
    """A command to one server, and its answer.

    Attributes:
        answer: Resolves, with the timestamp of the answer's record, when the other server has
            carried the command out.
    """

    def __init__(self, commands: Commands, number: int, record: ProducerRecord) -> None:
        super().__init__(commands, number, record)
        self.answer: Future[float] = Future()
        self.answer.set_running_or_notify_cancel()

    def take(self, answer: dict[str, Any], written: float) -> None:
        """Resolve the answer, once; the thread that reads."""
        if not self._commands.withdraw(self._number):
            return
        if answer.get("error"):
            self.answer.set_exception(CommandFailed(str(answer["error"])))
        else:
            self.answer.set_result(written)

    def fail(self, error: Exception) -> None:
        """Give the question up, for instance because it could not be written."""
        if self._commands.withdraw(self._number):
            self.answer.set_exception(error)

    def result_before(self, deadline: float) -> float:
        """Block until the answer is here.

        Args:
            deadline: On ``time.monotonic()``.

        Returns:
            The timestamp of the answer's record.

        Raises:
            TimeoutError: If it is not here by then; it is ignored if it comes later.
            CommandFailed: If the other server could not carry the command out.
            ProduceFailed: If the command could not be written.
        """
        try:
            return self.answer.result(max(0.0, deadline - monotonic()))
        except concurrent.futures.TimeoutError:
            _, key, _, _, _ = self.record
            raise TimeoutError(f"no answer to the command for {key}") from None
        finally:
            self.forget()


class RollCall(_Asked):
    """A question to all servers, and the answers that came so far.

    Attributes:
        servers: What each server told: ``server``, ``channels``, ``groups`` and ``users``.
    """

    def __init__(self, commands: Commands, number: int, record: ProducerRecord) -> None:
        super().__init__(commands, number, record)
        self.servers: list[dict[str, Any]] = []

    def take(self, answer: dict[str, Any], written: float) -> None:
        """Note what one server tells; the thread that reads."""
        self.servers.append({name: each for name, each in answer.items() if name != "id"})
