"""The synchronous twins of the layer's calls; they use no event loop.

They block only the calling thread: for the first start, for an acknowledgement, for a command, or
with ``overflow="block"``. Arguments, results and errors are those of the methods without ``_sync``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..config.threads import call_natively
from ..delivery.tickets import run_blocking
from ..messages import History, Position, Recovery, Since
from ..wire.names import UserId, user_key
from .procedures import Procedures

if TYPE_CHECKING:
    from ..config.streams import Start
    from ..streams.producing import StreamHeaders

__all__ = ["SyncTwins"]


class SyncTwins(Procedures):
    """The synchronous half of ``KafkaChannelLayer``; every method may be called from any thread."""

    def send_sync(self, channel: str, message: dict[str, Any]) -> Position | None:
        """Do what ``send`` does, without an event loop."""
        record = self._record_to(channel, message)
        if record is None or self._try_publish(record):
            return None
        return run_blocking(self._publish(record))

    def group_send_sync(
        self,
        group: str,
        message: dict[str, Any],
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Do what ``group_send`` does, without an event loop."""
        record = self._group_record(group, message, exclude, idempotency_key)
        return None if self._try_publish(record) else run_blocking(self._publish(record))

    def user_send_sync(
        self,
        user_id: UserId,
        message: dict[str, Any],
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Do what ``user_send`` does, without an event loop."""
        record = self._user_record(user_id, message, exclude, idempotency_key)
        return None if self._try_publish(record) else run_blocking(self._publish(record))

    def all_send_sync(
        self,
        message: dict[str, Any],
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Do what ``all_send`` does, without an event loop."""
        record = self._all_record(message, exclude, idempotency_key)
        return None if self._try_publish(record) else run_blocking(self._publish(record))

    def send_many_sync(
        self, channels: Iterable[str], message: dict[str, Any]
    ) -> list[Position | None]:
        """Do what ``send_many`` does, without an event loop."""
        return run_blocking(self._send_to_many(channels, message))

    def group_send_many_sync(
        self,
        groups: Iterable[str],
        message: dict[str, Any],
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> list[Position | None]:
        """Do what ``group_send_many`` does, without an event loop."""
        records = self._group_records(groups, message, exclude, idempotency_key)
        return run_blocking(self._publish_each(records))

    def user_send_many_sync(
        self,
        user_ids: Iterable[UserId],
        message: dict[str, Any],
        *,
        idempotency_key: str | None = None,
    ) -> list[Position | None]:
        """Do what ``user_send_many`` does, without an event loop."""
        records = self._user_records(user_ids, message, idempotency_key)
        return run_blocking(self._publish_each(records))

    def produce_sync(
        self,
        stream: str,
        value: Any,
        *,
        key: Any = None,
        headers: StreamHeaders | None = None,
        partition: int | None = None,
    ) -> Position | None:
        """Do what ``produce`` does, without an event loop."""
        return run_blocking(self._produce(stream, value, key, headers, partition))

    def group_add_sync(self, group: str, channel: str) -> None:
        """Do what ``group_add`` does, without an event loop."""
        self.require_valid_group_name(group)
        if not self._try_change("group_add", group, channel):
            run_blocking(self._change("group_add", group, channel))

    def group_discard_sync(self, group: str, channel: str) -> None:
        """Do what ``group_discard`` does, without an event loop."""
        self.require_valid_group_name(group)
        if not self._try_change("group_discard", group, channel):
            run_blocking(self._change("group_discard", group, channel))

    def user_add_sync(self, user_id: UserId, channel: str) -> None:
        """Do what ``user_add`` does, without an event loop."""
        user = user_key(user_id)
        if not self._try_change("user_add", user, channel):
            run_blocking(self._change("user_add", user, channel))

    def user_discard_sync(self, user_id: UserId, channel: str) -> None:
        """Do what ``user_discard`` does, without an event loop."""
        user = user_key(user_id)
        if not self._try_change("user_discard", user, channel):
            run_blocking(self._change("user_discard", user, channel))

    def group_history_sync(
        self,
        group: str,
        *,
        limit: int = 100,
        since: Since | None = None,
        newest_first: bool = False,
    ) -> History:
        """Do what ``group_history`` does, without an event loop."""
        return run_blocking(self._group_history(group, limit, since, newest_first))

    def user_history_sync(
        self,
        user_id: UserId,
        *,
        limit: int = 100,
        since: Since | None = None,
        newest_first: bool = False,
    ) -> History:
        """Do what ``user_history`` does, without an event loop."""
        return run_blocking(self._user_history(user_id, limit, since, newest_first))

    def all_history_sync(
        self, *, limit: int = 100, since: Since | None = None, newest_first: bool = False
    ) -> History:
        """Do what ``all_history`` does, without an event loop."""
        return run_blocking(self._all_history(limit, since, newest_first))

    def stream_history_sync(
        self,
        stream: str,
        *,
        group: str | None = None,
        user_id: UserId | None = None,
        limit: int = 100,
        since: Since | None = None,
        newest_first: bool = False,
    ) -> History:
        """Do what ``stream_history`` does, without an event loop."""
        return run_blocking(
            self._stream_history(stream, group, user_id, limit, since, newest_first)
        )

    def group_position_sync(self, group: str) -> str:
        """Do what ``group_position`` does, without an event loop."""
        return run_blocking(self._group_position(group))

    def recover_sync(
        self, channel: str, position: str, *, window: float | None = None, limit: int = 300
    ) -> Recovery:
        """Do what ``recover`` does, without an event loop."""
        return run_blocking(self._recover(channel, position, window, limit))

    def pause_stream_sync(self, stream: str, *, everywhere: bool = False) -> None:
        """Do what ``pause_stream`` does, without an event loop."""
        run_blocking(self._steer_stream("pause", stream, everywhere))

    def resume_stream_sync(self, stream: str, *, everywhere: bool = False) -> None:
        """Do what ``resume_stream`` does, without an event loop."""
        run_blocking(self._steer_stream("resume", stream, everywhere))

    def seek_stream_sync(self, stream: str, start: Start, *, everywhere: bool = False) -> None:
        """Do what ``seek_stream`` does, without an event loop."""
        run_blocking(self._steer_stream("seek", stream, everywhere, start))

    def flush_sync(self) -> None:
        """Do what ``flush`` does, without an event loop."""
        run_blocking(self._flush())

    def close_sync(self) -> None:
        """Do what ``close`` does, without an event loop."""
        call_natively(partial(self._server.close, self.config.timings.close))
