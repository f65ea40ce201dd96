"""Which server this is: its name, once it has one."""

from __future__ import annotations

from ..wire.names import ServerName, owner_of

__all__ = ["Identity"]


class Identity:
    """The name of one server: None until it receives, then the same for good; any thread.

    Attributes:
        name: The server's name.
    """

    __slots__ = ("name",)

    def __init__(self) -> None:
        self.name: ServerName | None = None

    def take(self, partition: int) -> None:
        """Take a new name, unless there is one.

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
        """Tell whether ``server``, as it stands in a channel's name, is this one."""
        return server == self.name

    def owns_channel(self, channel: str) -> bool:
        """Tell whether a channel's name says that it is of this server."""
        return self.name is not None and owner_of(channel) == self.name

    def is_key(self, key: str) -> bool:
        """Tell whether the key of a record addresses this server."""
        return self.name is not None and key == str(self.name)
