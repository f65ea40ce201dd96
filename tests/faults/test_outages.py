"""One broker is killed, or stands still, once for all that uses it meanwhile."""

from __future__ import annotations

import pytest

from tests.faults.conftest import LayersOn
from tests.faults.courses import messages, questions, streams
from tests.faults.outage import Outage, calm
from tests.support.kafka import RealBroker
from tests.support.layers import Layers, layer_threads
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.filterwarnings("ignore:The tests use the Kafka")


async def test_killed_and_restarted_after_some_seconds(
    broker: RealBroker, make_layer: Layers, layers_on: LayersOn, kafka: str, prefix: str
) -> None:
    elsewhere = layers_on(kafka)
    calm(make_layer)
    await Outage(broker.kill, broker.start).run(
        *questions.while_killed(broker, make_layer, prefix),
        *await streams.while_killed(make_layer, elsewhere, prefix),
        *messages.while_killed(broker, make_layer, f"{prefix}-expiring"),
    )
    make_layer.close()
    elsewhere.close()
    await wait_until_async(lambda: not layer_threads(), f"{layer_threads()} to end")


async def test_it_stands_still_until_its_session_ends(
    broker: RealBroker, make_layer: Layers, prefix: str
) -> None:
    await Outage(broker.freeze, broker.thaw).run(
        *questions.while_frozen(broker, make_layer, prefix), *messages.while_frozen(make_layer)
    )
