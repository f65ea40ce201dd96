"""librdkafka properties of the clients, where a default is the layer's own."""

from __future__ import annotations

from kafka_layer.config.settings import LayerConfig
from kafka_layer.kafka.properties import producer_properties

SERVERS = "localhost:9092"
IN_FLIGHT = "max.in.flight.requests.per.connection"


def test_no_request_overtakes_one_that_fails() -> None:
    # With two on their way, what a dying leader had written may be written again.
    config = LayerConfig.from_keywords(bootstrap_servers=SERVERS)
    assert producer_properties(config)[IN_FLIGHT] == 1


def test_a_project_may_have_more_requests_on_their_way() -> None:
    config = LayerConfig.from_keywords(bootstrap_servers=SERVERS, producer_config={IN_FLIGHT: 5})
    assert producer_properties(config)[IN_FLIGHT] == 5
