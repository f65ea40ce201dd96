"""Who may see the page for staff, and the ticket with which its websocket connects."""

from __future__ import annotations

from channels import DEFAULT_CHANNEL_LAYER
from django.core.signing import BadSignature, TimestampSigner
from django.http import HttpRequest

from ..config.settings import LayerConfig
from ..management.installed import backend_of, channel_layers, is_kafka_layer

__all__ = ["alias_of", "aliases", "may_look", "new_ticket"]


def aliases() -> list[str]:
    """Return the aliases of this package's layers, the default one first."""
    found = [alias for alias in channel_layers() if is_kafka_layer(backend_of(alias))]
    return sorted(found, key=lambda alias: alias != DEFAULT_CHANNEL_LAYER)


def may_look(config: LayerConfig, request: HttpRequest) -> bool:
    """Tell whether a request may see the page of a layer with these settings."""
    if config.dashboard_access is not None:
        return bool(config.dashboard_access(request))
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.is_staff


def new_ticket(alias: str) -> str:
    """Return a ticket with which a page that was allowed just now may connect its websocket.

    Args:
        alias: The layer that the page shows.
    """
    ticket: str = _signer().sign_object(alias)
    return ticket


def alias_of(ticket: str, seconds: float) -> str | None:
    """Return the layer of a ticket; None if it is forged or too old.

    Args:
        ticket: The ticket that a browser sent.
        seconds: How old it may be.
    """
    try:
        alias: str = _signer().unsign_object(ticket, max_age=seconds)
    except BadSignature:
        return None
    return alias


def _signer() -> TimestampSigner:
    # A colon, the default separator, is not allowed in a subprotocol of a websocket.
    return TimestampSigner(sep=".", salt="kafka_layer.dashboard")
