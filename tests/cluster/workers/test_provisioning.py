"""``kafka_setup_topics --worker-channel``: the topics of worker channels, made beforehand."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from kafka_layer.exceptions import TopicError
from tests.cluster.workers.groups import topic_of
from tests.support.layers import Backend, Layers, next_message


@pytest.fixture
def config(backend: Backend, prefix: str, settings: Any) -> dict[str, Any]:
    """CONFIG keywords of the project's layer, which creates no topics."""
    config = {
        **backend.config,
        "prefix": prefix,
        "default_partitions": 2,
        "auto_create_topics": False,
        "worker_channels": {"mail": {"partitions": 3}, "job.*": {"partitions": 5}},
    }
    backend_class = "kafka_layer.layer.KafkaChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend_class, "CONFIG": config}}
    return config


def run(*options: str) -> dict[str, int | None]:
    """Return the partitions of the worker channels' topics, as the command prints them."""
    out = io.StringIO()
    call_command("kafka_setup_topics", "--json", *options, stdout=out)
    (report,) = json.loads(out.getvalue())["layers"]
    prefix = f"{report['prefix']}-work."
    return {
        row["topic"].removeprefix(prefix): row["partitions"]
        for row in report["rows"]
        if row["topic"].startswith(prefix)
    }


async def test_channels_that_are_named_are_provisioned_and_work(
    config: dict[str, Any], make_layer: Layers
) -> None:
    options = ("--worker-channel", "job.a", "--worker-channel=other", "--worker-channel", "mail")
    assert run(*options) == {"mail": 3, "job.a": 5, "other": 2}
    layer = make_layer(**config)
    for name in ("mail", "job.a", "other"):
        await layer.send(name, {"to": name})
        assert await next_message(layer, name) == {"to": name}


def test_a_check_looks_at_them(config: dict[str, Any], make_layer: Layers) -> None:
    run()
    with pytest.raises(CommandError, match="missing") as error:
        run("--check", "--worker-channel", "job-1")
    assert error.value.returncode == 3
    run("--worker-channel", "job-1")
    assert run("--check", "--worker-channel", "job-1") == {"mail": 3, "job--1": 2}
    assert topic_of(make_layer(**config), "job-1").endswith("-work.job--1")


@pytest.mark.parametrize("name", ["no spaces", "specific.3-a!b", "x" * 100, ""])
def test_a_name_that_cannot_be_one_is_refused(config: dict[str, Any], name: str) -> None:
    with pytest.raises(CommandError, match="worker-channel"):
        run("--worker-channel", name)


async def test_names_that_no_setting_knows_get_few_topics_and_a_warning_each(
    make_layer: Layers, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(
        prefix, unnamed_worker_channels=2, worker_channels={"named.*": {"partitions": 1}}
    )
    for name in ("named.1", "reply-1", "named.2", "reply-2", "named.3"):
        await layer.send(name, {"to": name})
        assert await next_message(layer, name) == {"to": name}
    warned = [each.args[0] for each in caplog.records if "gets the lasting topic" in each.msg]
    assert warned == ["reply-1", "reply-2"]

    # Those of other processes count, too.
    for sender in (layer, make_layer(prefix, unnamed_worker_channels=2)):
        with pytest.raises(TopicError, match=r"'reply-3' gets no topic.*unnamed_worker_channels"):
            await sender.send("reply-3", {})
    await layer.send("reply-1", {"still": "there"})
    assert await next_message(layer, "reply-1") == {"still": "there"}
