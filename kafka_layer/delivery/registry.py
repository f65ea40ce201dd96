"""The channels of this server, and when each is forgotten.

Knows nothing of Kafka. Any thread may call any method, and so may a signal handler or a finalizer
that interrupts one of them: nothing here waits for a lock.

The registry forgets a channel, with its groups and its user, when nobody can receive on it any
more. While the name object that ``new_channel()`` returned lives, a handler may run for any time,
because its consumer holds the name. When Python has collected the object and receives used only
that object, as those of a websocket, the next sweep forgets the channel. If a receive used a copy
of the text, or none has come yet, a copy may be in use: then the channel is forgotten when no
receive waits and ``expiry`` has passed since the last one.
"""

from __future__ import annotations

import copy
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from ..config import realtime as time
from ..config.settings import LayerConfig
from ..wire.names import ChannelName, ServerName, new_channel_name
from .mailbox import Mailbox
from .membership import Membership
from .wakeups import Wakeups

__all__ = ["ChannelForgotten", "Registry"]


class ChannelForgotten(Exception):
    """The channel was forgotten while a receive waited; the receive opens it again."""


class Registry:
    """The channels of one server.

    A channel is *held* while its name object lives; then *leaving*, while a copy of the name may
    still receive; *forgotten* in the end. A receive brings a forgotten channel back as leaving,
    without its groups.

    The registry is *open*, then *closed*: it opens no channel any more, and receives raise. In the
    end it is *empty*.

    Args:
        config: Capacities and expiry times.

    Attributes:
        wakeups: The event loops that receive.
        groups: Which channels are in which group.
        users: Which channels serve which user.
        mailbox: Returns the mailbox of a channel; None if the channel is not (or no longer) here.
            Not a method, because each send and each receive calls it.
        hears_all: Tells whether messages to everybody reach the channels here; the layer sets it.
        join: Makes a channel a member of a group in place of ``groups.add``; gets the group's name
            and the mailbox. None: nothing more is to be done.
    """

    def __init__(self, config: LayerConfig) -> None:
        self.wakeups = Wakeups(config.timings)
        self.groups = Membership()
        self.users = Membership()
        self.hears_all: Callable[[], bool] = lambda: True
        self.join: Callable[[str, Mailbox], object] | None = None
        # By command: what it changes, and whether it adds.
        self._commands = {
            "group_add": (self.groups, True),
            "group_discard": (self.groups, False),
            "user_add": (self.users, True),
            "user_discard": (self.users, False),
        }
        self._config = config
        self._mailboxes: dict[str, Mailbox] = {}
        self.mailbox: Callable[[str], Mailbox | None] = self._mailboxes.get
        self._names: dict[str, weakref.ref[ChannelName]] = {}
        # Filled by weakref callbacks, which run at any point of any thread: append only.
        self._collected: deque[str] = deque()
        # Channels that are leaving, and when to look at each again.
        self._leaving: deque[tuple[float, Mailbox]] = deque()
        self._next_full_sweep = time.monotonic() + config.group_expiry
        self._error: Exception | None = None

    def new_channel(self, prefix: str, server: ServerName) -> str:
        """Open a channel and return its name; it lives as long as the name object does.

        Raises:
            Exception: A copy of the error that ``close`` was given, if this is closed.
        """
        name = new_channel_name(prefix, server)
        channel = str(name)
        collected = self._collected
        self._names[channel] = weakref.ref(name, lambda _: collected.append(channel))
        mailbox = self._mailboxes[channel] = self._new_mailbox(channel)
        self._require_open(mailbox)
        return name

    def open_mailbox(self, channel: str) -> Mailbox:
        """Return the channel's mailbox; make one, without groups, if the channel was forgotten.

        Raises:
            Exception: A copy of the error that ``close`` was given, if this is closed.
        """
        mailbox = self._mailboxes.get(channel)
        if mailbox is None:
            made = self._new_mailbox(channel)
            mailbox = self._mailboxes.setdefault(channel, made)
            if mailbox is made:
                self._expire_later(mailbox)
                self._require_open(mailbox)
        return mailbox

    def mailboxes(self) -> list[Mailbox]:
        """Return the mailboxes of all channels that are not forgotten."""
        return list(self._mailboxes.values())

    def open_channels(self) -> list[Mailbox]:
        """Return every channel on which a receive waits, or whose name object lives."""
        return [each for each in list(self._mailboxes.values()) if self.is_open(each)]

    def audience(self) -> Sequence[Mailbox]:
        """Return every channel that a message to everybody reaches."""
        return self.open_channels() if self.hears_all() else ()

    def is_open(self, mailbox: Mailbox) -> bool:
        """Tell whether a receive waits on a channel, or its name object lives."""
        if mailbox.closed:
            return False
        if mailbox.receiving:
            return True
        name = self._names.get(mailbox.channel)
        return name is not None and name() is not None

    def change(self, command: str, name: str, channel: str) -> None:
        """Change a membership, for a caller here or on another server.

        A channel that is not, or no longer, here changes nothing.

        Args:
            command: ``group_add``, ``group_discard``, ``user_add`` or ``user_discard``.
            name: The group or user.
            channel: The channel.

        Raises:
            ValueError: If there is no such command.
        """
        if command not in self._commands:
            raise ValueError(f"this server does not know the command {command!r}")
        membership, adds = self._commands[command]
        mailbox = self._mailboxes.get(channel)
        if mailbox is not None:
            tracked = mailbox.tracked
            if tracked is not None and adds:
                tracked.join(command, name)
            if adds and self.join is not None and membership is self.groups:
                self.join(name, mailbox)
            else:
                (membership.add if adds else membership.discard)(name, mailbox)
            if tracked is not None:
                tracked.changed()
            if self._mailboxes.get(channel) is not mailbox:
                # The channel was forgotten meanwhile, and nothing else would end its membership.
                membership.drop(mailbox)

    def sweep(self) -> int:
        """Forget channels on which nobody can receive any more; one thread alone.

        Returns:
            How many messages were left in them.
        """
        now = time.monotonic()
        left = 0
        while self._collected:
            mailbox = self._mailboxes.get(self._collected.popleft())
            if mailbox is None:
                continue
            if mailbox.received_by is ChannelName and not mailbox.receiving:
                left += self._forget(mailbox)
            else:
                self._expire_later(mailbox)
        while self._leaving and self._leaving[0][0] <= now:
            mailbox = self._leaving.popleft()[1]
            if mailbox.receiving or mailbox.last_seen + self._config.expiry > now:
                self._expire_later(mailbox)
            else:
                left += self._forget(mailbox)
        if now >= self._next_full_sweep:
            self._next_full_sweep = now + self._config.group_expiry / 10
            left += self._forget_silent(now)
        return left

    def clear(self) -> int:
        """Drop all messages and memberships; the channels stay open.

        Returns:
            How many messages were dropped.
        """
        self.groups.clear()
        self.users.clear()
        return sum(mailbox.clear() for mailbox in list(self._mailboxes.values()))

    def close(self, error: Exception) -> int:
        """Let each present and future receive raise a copy of ``error``; open no more channels.

        Returns:
            How many messages were dropped.
        """
        # First, so that a channel that another thread opens from here on is taken back.
        self._error = error
        return sum(mailbox.close(error) for mailbox in list(self._mailboxes.values()))

    def empty(self) -> int:
        """Drop the channels, after ``close``.

        Returns:
            How many messages were put into them while they closed.
        """
        left = self.clear()
        self._mailboxes.clear()
        self._names.clear()
        self._collected.clear()
        self._leaving.clear()
        return left

    def __len__(self) -> int:
        return len(self._mailboxes)

    def _new_mailbox(self, channel: str) -> Mailbox:
        return Mailbox(channel, self._config.capacity_of(channel), self.wakeups)

    def _require_open(self, made: Mailbox) -> None:
        if self._error is not None:
            # close() may have run just before the mailbox was added.
            self._forget(made, self._error)
            raise copy.copy(self._error)

    def _expire_later(self, mailbox: Mailbox) -> None:
        self._leaving.append((time.monotonic() + self._config.expiry, mailbox))

    def _forget_silent(self, now: float) -> int:
        # Channels whose names leak, for instance in a consumer, end here.
        silent = [
            mailbox
            for mailbox in list(self._mailboxes.values())
            if not mailbox.receiving and mailbox.last_seen + self._config.group_expiry <= now
        ]
        return sum(self._forget(mailbox) for mailbox in silent)

    def _forget(self, mailbox: Mailbox, error: Exception | None = None) -> int:
        if self._mailboxes.get(mailbox.channel) is mailbox:
            del self._mailboxes[mailbox.channel]
            self._names.pop(mailbox.channel, None)
        # A receive may have found the mailbox before it was removed, and must not wait in it.
        left = mailbox.close(error or ChannelForgotten(mailbox.channel))
        self.groups.drop(mailbox)
        self.users.drop(mailbox)
        return left
