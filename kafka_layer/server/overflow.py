"""The setting ``overflow``: what a send does while the producer's queue is full."""

from __future__ import annotations

from collections.abc import Callable

from channels.exceptions import ChannelFull

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..delivery.tickets import Steps, Ticket, wait
from ..observe.counters import Stats
from ..transport_values import QueueFull
from ..wire.topics import AnyTopic

__all__ = ["OverflowPolicy", "put"]


def put(
    try_to: Callable[[bool], object],
    when_room: Callable[[bool], Ticket[None]],
    overflow: Callable[[], OverflowPolicy],
) -> Steps[bool]:
    """Queue a record; while the queue is full, do what ``overflow`` says.

    Args:
        try_to: Queues the record; gets whether the send has waited for room. Raises ``QueueFull``.
        when_room: As ``kafka_layer.transport.Sender.when_room``.
        overflow: Makes the policy of this send.

    Returns:
        Whether it is queued; False if it was discarded.

    Raises:
        ChannelFull: If the queue is full, at once or for ``expiry`` seconds.
        Exception: What ``try_to`` raises otherwise.
    """
    policy: OverflowPolicy | None = None
    while True:
        waited = policy is not None
        try:
            try_to(waited)
        except QueueFull:
            policy = policy or overflow()
            if policy.should_drop():
                return False
            try:
                yield from wait(when_room(waited), policy.patience)
            except TimeoutError:
                raise policy.refusal() from None
        else:
            return True


class OverflowPolicy:
    """Decides for one send while the transport's queue is full.

    Args:
        config: For ``overflow`` and ``expiry``.
        stats: Counts refused and dropped records.
        topic: The topic of the record to send.
        key: Its key.
    """

    def __init__(
        self, config: LayerConfig, stats: Stats, topic: AnyTopic, key: str | bytes | None
    ) -> None:
        self._overflow = config.overflow
        self._stats = stats
        self._where = f"the producer's queue is full, {topic.value} {key!r}"
        self._deadline = monotonic() + config.expiry

    @property
    def patience(self) -> float:
        """Seconds that the send waits for room from now on."""
        return max(0.0, self._deadline - monotonic())

    def should_drop(self) -> bool:
        """Return True to drop the record, counted, and False to wait for room.

        Raises:
            ChannelFull: To do neither.
        """
        if self._overflow == "discard":
            self._stats.dropped("overflow", self._where)
            return True
        if self._overflow == "block" and self.patience:
            return False
        raise self.refusal()

    def refusal(self) -> Exception:
        """Count the record as refused; return the error to raise."""
        self._stats.count("refused.overflow")
        return ChannelFull(self._where)  # type: ignore[no-any-return, unused-ignore]
