"""The websocket of one board: the last price of all that it shows, then each change.

A browser sends nothing. It receives JSON objects with a `type`:

    welcome  {"worker"}: the worker that it is connected to
    price    {"name", "price"}: one record of the topic

A browser that comes back gets all the changes that it missed, before what is new.
"""

import math
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings

from demo_project.market import PRICES
from kafka_layer.consumers import AsyncRecoveryConsumerMixin
from kafka_layer.streams import group_name
from kafka_layer.streams.record import StreamRecord

MAX_ADDED = 20
MAX_NAME_LENGTH = 32


def is_price(record: StreamRecord) -> bool:
    """Tell whether a board can show a record: anybody may write to the topic."""
    match record.value:
        case {"price": float() | int() as price}:
            return math.isfinite(price)
    return False


def shown(added: Iterable[str]) -> list[str]:
    """Return what a board shows: all that the market sells, and what its address adds."""
    names = [name for each in added if (name := each.strip()[:MAX_NAME_LENGTH])]
    return list(dict.fromkeys([*PRICES, *names[:MAX_ADDED]]))


class BoardConsumer(AsyncRecoveryConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    # The market changes about 900 prices in the five minutes for which a browser may be away.
    recovery_limit = 1000

    async def connect(self) -> None:
        # Prices are for everybody. A consumer that refuses somebody does it here.
        query = parse_qs(self.scope["query_string"].decode("latin-1"))
        for name in shown(query.get("add", [])):
            group = group_name("price-{key}", key=name)
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()
        await self.send_json({"type": "welcome", "worker": settings.DEMO_WORKER})

    async def price_changed(self, event: dict[str, Any]) -> None:
        await self.send_json(
            {"type": "price", "name": event["key"], "price": event["value"]["price"]}
        )
