"""The frames of the subprotocol ``kafka-layer.v1``, and a browser's offer. Pure.

docs/recovery.md describes them for the authors of clients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from ..messages import Recovery

__all__ = [
    "GAP",
    "SUBPROTOCOL",
    "Offer",
    "as_json",
    "data_frame",
    "offer_of",
    "place_frame",
    "position_frame",
    "verdict_frame",
]

SUBPROTOCOL = "kafka-layer.v1"

GAP = 4008
"""The close code for a browser that missed messages while it was connected."""

_POSITION = "kafka-layer.position."


class Offer(NamedTuple):
    """The offer of a browser that knows the subprotocol, in its handshake.

    Attributes:
        scope: The connection's scope for the application. Its subprotocols are without the
            position, because the application may choose one of them.
        position: The position to recover from; None if the browser has none.
    """

    scope: Any
    position: str | None


def offer_of(scope: Mapping[str, Any]) -> Offer | None:
    """Return the offer of a browser; None if the browser does not know the subprotocol.

    Args:
        scope: The ASGI scope of a websocket.
    """
    subprotocols = scope.get("subprotocols") or ()
    if SUBPROTOCOL not in subprotocols:
        return None
    chosen_from = [each for each in subprotocols if not each.startswith(_POSITION)]
    positions = [each for each in subprotocols if each.startswith(_POSITION)]
    if positions:
        position = positions[0][len(_POSITION) :]
    else:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        position = query.get("position", [""])[0]
    return Offer({**scope, "subprotocols": chosen_from}, position or None)


def as_json(text: str) -> str:
    """Return a text unchanged if it is JSON, otherwise as a JSON string."""
    try:
        _decode(text)
    except (ValueError, RecursionError):
        return json.dumps(text)
    return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


# Made once: json.loads would make a decoder for each text.
_decode = json.JSONDecoder(parse_constant=_refuse).decode


def data_frame(data: str, place: str) -> str:
    """Return the frame with data of the application.

    Args:
        data: The data, as JSON.
        place: The place of the message whose handler sent it, if this is its last frame; else "".
    """
    return f'{{"p":"{place}","d":{data}}}' if place else f'{{"d":{data}}}'


def place_frame(place: str) -> str:
    """Return the frame that says that a message was handled."""
    return f'{{"p":"{place}"}}'


def position_frame(position: str, interval: float) -> str:
    """Return the frame of a position.

    Args:
        position: The position.
        interval: Seconds within which another frame comes.
    """
    return f'{{"t":"{position}","i":{interval:g}}}'


def verdict_frame(recovery: Recovery) -> str:
    """Return the frame that says whether everything was replayed."""
    verdict = {
        "recovered": recovery.recovered,
        "reason": recovery.reason,
        "count": len(recovery.messages),
    }
    return json.dumps({"r": verdict}, separators=(",", ":"))
