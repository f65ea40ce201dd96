"""The receivers of a stream's records: the settings ``group``, ``user`` and ``where``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ..exceptions import Cause, KafkaLayerError, UnreadableRecord
from ..wire.names import LONGEST_NAME, is_group_name, user_key
from .record import StreamRecord
from .template import PARTS, Template, group_template

__all__ = ["Addresser", "Filter", "GroupFunction", "GroupNames", "UserFunction", "UserKeys"]


class Addresser(Protocol):
    """Returns the groups' names, or the users' keys, that a record is for.

    Attributes:
        needs: Which of ``key``, ``value``, ``headers``, ``topic`` and ``partition`` it reads; for a
            function all of them, although a record decodes its parts only when they are read.
    """

    needs: frozenset[str]

    def may_give(self, name: str) -> bool:
        """Tell whether a record may be for a name; True if that is not known."""

    def names(self, record: StreamRecord) -> Sequence[str]:
        """Return valid group names, or user keys as ``wire.names.user_key`` makes them.

        Raises:
            UnreadableRecord: ``template``, ``name``, ``function``, ``undecodable`` or ``schema``.
            RegistryAway: If a schema registry is needed, and does not answer.
        """


class _Names:
    """The names that a template gives. Hot path: called for each record of a stream.

    Args:
        template: Parsed.

    Attributes:
        needs: As in ``Addresser``.
        by_key: The names for the last raw keys, cached because most keys of a topic come many
            times. None if the template needs more than the key.
    """

    def __init__(self, template: Template) -> None:
        self.needs = template.needs
        self.by_key: dict[bytes | None, tuple[str]] | None = {} if self.needs == {"key"} else None
        self._template = template

    def may_give(self, name: str) -> bool:
        """As ``Addresser.may_give``."""
        # A name of full length may end in a hash.
        return name.startswith(self._template.before) or len(name) == LONGEST_NAME

    def names(self, record: StreamRecord) -> Sequence[str]:
        """As ``Addresser.names``."""
        by_key = self.by_key
        if by_key is None:
            return (self._name(record),)
        key = record.raw_key
        found = by_key.get(key)
        if found is None:
            found = (self._name(record),)
            if len(by_key) >= _KEYS_KEPT:
                by_key.clear()
            by_key[key] = found
        return found

    def _name(self, record: StreamRecord) -> str:
        return self._template.fill(record)


_KEYS_KEPT = 10_000
"""Limit of a template's cache of names: at most some 3 MB."""


class GroupNames(_Names):
    """The group's name that a template gives.

    Args:
        text: The template.

    Attributes:
        key_of: Returns the key, as text, for which the template gives a name, or None; as
            ``GroupTemplate.filling``. Itself None if the template has placeholders other than one
            ``{key}``.
        of_key: Returns the name for a key, as text; as ``GroupTemplate.naming``. None if ``key_of``
            is.

    Raises:
        ValueError: If the text is no template; the error says why.
    """

    def __init__(self, text: str) -> None:
        template = group_template(text)
        super().__init__(template)
        is_one = template.is_one("key")
        self.key_of = template.filling if is_one else None
        self.of_key = template.naming() if is_one else None


class UserKeys(_Names):
    """The user's key that a template gives.

    Args:
        text: The template.

    Raises:
        ValueError: If the text is no template; the error says why.
    """

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("it is empty")
        super().__init__(Template(text))

    def _name(self, record: StreamRecord) -> str:
        return _user_key(self._template.fill(record))


class _Function:
    """Calls a function of a project's settings with records.

    Args:
        function: Takes a ``StreamRecord``.

    Raises:
        TypeError: If it is a coroutine function, or takes no single argument.
    """

    needs = frozenset(PARTS)

    def __init__(self, function: Callable[[StreamRecord], Any]) -> None:
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object's own __call__
        ):
            raise TypeError(
                "it is a coroutine function; the thread that reads the stream calls it, so it must "
                "be a plain function"
            )
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            raise TypeError(f"it cannot be called with a record: {error}") from None
        except ValueError:
            pass  # a function of C without a signature
        self._function = function

    def may_give(self, name: str) -> bool:
        """As ``Addresser.may_give``: a function may return any name."""
        return True

    def call(self, record: StreamRecord) -> Any:
        """Return what the function returns.

        Raises:
            UnreadableRecord: ``function`` if it raised or returned a coroutine; errors of decoding
                pass as they are.
            RegistryAway: As the record's key and value.
        """
        try:
            returned = self._function(record)
        except KafkaLayerError:
            raise
        except Exception as error:
            raise self._failure(f"raised {error!r}") from error
        if inspect.isawaitable(returned):
            if inspect.iscoroutine(returned):
                returned.close()
            raise self._failure("returned an awaitable; it must be a plain function")
        return returned

    def _failure(self, what: str, cause: Cause = "function") -> UnreadableRecord:
        name = getattr(self._function, "__qualname__", repr(self._function))
        return UnreadableRecord(cause, f"{name}() {what}")

    def _names(self, record: StreamRecord) -> Iterable[Any]:
        """Return what the function returned as several names; none for None."""
        returned = self.call(record)
        if returned is None:
            return ()
        if isinstance(returned, (str, bytes)) or not isinstance(returned, Iterable):
            return (returned,)
        try:
            return list(returned)
        except KafkaLayerError:
            raise
        except Exception as error:  # a generator of the project
            raise self._failure(f"raised {error!r}") from error


class GroupFunction(_Function):
    """The groups that a function returns: one name, several, or None for no group.

    The names are used as they are. The function can make them with
    ``kafka_layer.streams.group_name``.
    """

    def names(self, record: StreamRecord) -> Sequence[str]:
        """As ``Addresser.names``."""
        names = [
            str.__str__(each) if isinstance(each, str) else each for each in self._names(record)
        ]
        for name in names:
            if not isinstance(name, str) or not is_group_name(name):
                raise self._failure(f"returned {name!r}, which is no name of a group", "name")
        return names


class UserFunction(_Function):
    """The users that a function returns: one id, several, or None for no user."""

    def names(self, record: StreamRecord) -> Sequence[str]:
        """As ``Addresser.names``."""
        return [_user_key(each) for each in self._names(record)]


def _user_key(user_id: Any) -> str:
    try:
        return user_key(user_id)
    except TypeError as error:
        raise UnreadableRecord("name", str(error)) from None


class Filter(_Function):
    """The setting ``where``: whether a record has receivers."""

    def __call__(self, record: StreamRecord) -> bool:
        """Return whether the record passes; raises as ``call``."""
        returned = self.call(record)
        if not isinstance(returned, bool):
            raise self._failure(f"returned {returned!r}; it must return True or False")
        return returned
