"""The name of a server, once it has one."""

from __future__ import annotations

from ..wire.names import ServerName, owner_of

__all__ = ["Identity"]


class Identity:
    """The name of one server; any thread.

    Attributes:
        name: The server's name; None until it receives, then the same for good.
    """

    __slots__ = ("name",)

    def __init__(self) -> None:
        self.name: ServerName | None = None

    def take(self, partition: int) -> None:
        """Give the server a new name, unless it has one.

        Args:
            partition: The server's inbox partition.
        """
        if self.name is None:
            self.name = ServerName.new(partition)

    def require(self) -> ServerName:
        """Return the name of a server that receives."""
        if self.name is None:
            raise RuntimeError("the server has no name before it receives")
        return self.name

    def owns(self, server: ServerName) -> bool:
        """Tell whether ``server``, from a channel's name, is this one."""
        return server == self.name

    def owns_channel(self, channel: str) -> bool:
        """Tell whether a channel's name names this server as its owner."""
        return self.name is not None and owner_of(channel) == self.name

    def is_key(self, key: str) -> bool:
        """Tell whether the key of a record addresses this server."""
        return self.name is not None and key == str(self.name)
