"""What the coordinator of a worker channel's group is asked, without a broker."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from kafka_layer.config.settings import LayerConfig
from kafka_layer.kafka.worker_group import client as client_module
from kafka_layer.kafka.worker_group.client import describe_group

NO_BROKER = "127.0.0.1:1"


def test_the_client_that_asked_for_a_group_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[AdminClient] = []

    class Noted(AdminClient):
        def __exit__(self, *exception: object) -> None:
            super().__exit__(*exception)
            freed.append(self)

    monkeypatch.setattr(client_module, "AdminClient", Noted)
    config = LayerConfig.from_keywords(bootstrap_servers=NO_BROKER)
    with pytest.raises(KafkaException):
        describe_group(config, "jobs", 0.1)
    assert len(freed) == 1
