"""``kafka_setup_topics`` on several brokers, of which some learn of a change later than others."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from kafka_layer.config.settings import LayerConfig
from kafka_layer.exceptions import TopicError
from kafka_layer.kafka.admin import TopicAdmin
from kafka_layer.kafka.specs import TopicSpec, TopicState, topic_specs
from kafka_layer.management.commands import kafka_setup_topics
from kafka_layer.management.installed import BACKEND

CONFIG = {"bootstrap_servers": "127.0.0.1:1", "prefix": "spread", "default_partitions": 2}


class Brokers(TopicAdmin):
    """Two brokers, asked in turn; the second learns of a topic when it was asked often enough.

    Attributes:
        late: How often the second has to be asked for topics first.
    """

    late = 0
    topics: Mapping[str, TopicSpec] = {}

    def __init__(self, config: LayerConfig, timeout: float) -> None:
        self._timeout = timeout
        self._looks = 0

    def __exit__(self, *exception: object) -> None:
        pass

    def create(self, specs: Sequence[TopicSpec], *, dry_run: bool = False) -> None:
        if not dry_run:
            type(self).topics = {**self.topics, **{spec.name: spec for spec in specs}}

    def inspect(self, names: Sequence[str]) -> dict[str, TopicState]:
        self._looks += 1
        if self._looks % 2 == 0 and self._looks <= 2 * self.late:
            return {}
        return {
            name: TopicState(name, spec.partitions, 1, spec.config)
            for name in names
            if (spec := self.topics.get(name)) is not None
        }


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch, settings: Any) -> type[Brokers]:
    class Own(Brokers):
        pass

    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": CONFIG}}
    monkeypatch.setattr(kafka_setup_topics, "TopicAdmin", Own)
    return Own


def run(*options: str) -> dict[str, Any]:
    out = io.StringIO()
    call_command("kafka_setup_topics", "--json", *options, stdout=out, no_color=True)
    result: dict[str, Any] = json.loads(out.getvalue())
    return result


@pytest.mark.parametrize("late", [0, 1, 2, 3])
def test_what_was_created_is_reported_as_created_whichever_broker_answers(
    brokers: type[Brokers], late: int
) -> None:
    brokers.late = late
    result = run()
    assert {row["status"] for row in result["layers"][0]["rows"]} == {"created"}
    assert result["changed"]
    assert result["as_wanted"]


def test_a_check_asks_again_before_it_calls_a_topic_missing(
    brokers: type[Brokers], monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers.topics = {spec.name: spec for spec in topic_specs(LayerConfig.from_keywords(**CONFIG))}
    brokers.late = 3
    # The broker that does not know the topics is the first to be asked.
    asked_once = Brokers.__init__

    def begin(self: Brokers, *arguments: Any) -> None:
        asked_once(self, *arguments)
        self._looks = 1

    monkeypatch.setattr(brokers, "__init__", begin)
    assert run("--check")["as_wanted"]


def test_a_change_that_no_broker_shows_is_an_error(brokers: type[Brokers]) -> None:
    admin = brokers(LayerConfig.from_keywords(**CONFIG), 0.1)
    with pytest.raises(TopicError, match="spread-x does not exist"):
        admin.wait_until_visible([TopicSpec("spread-x", 1, -1)])


def test_topics_that_different_looks_have_shown_are_visible(brokers: type[Brokers]) -> None:
    class Halves(brokers):  # type: ignore[misc, valid-type]
        def inspect(self, names: Sequence[str]) -> dict[str, TopicState]:
            self._looks += 1
            shown = "spread-a" if self._looks % 2 else "spread-b"
            return {name: TopicState(name, 1, 1) for name in names if name == shown}

    admin = Halves(LayerConfig.from_keywords(**CONFIG), 0.5)
    specs = [TopicSpec("spread-a", 1, -1), TopicSpec("spread-b", 1, -1)]
    assert admin.wait_until_visible(specs).keys() == {"spread-a", "spread-b"}


class TestWhatACheckSuggests:
    def check(self, brokers: type[Brokers], *options: str, **changed: Any) -> str:
        specs = topic_specs(LayerConfig.from_keywords(**{**CONFIG, **changed}))
        brokers.topics = {spec.name: spec for spec in specs}
        with pytest.raises(CommandError) as caught:
            run("--check", *options)
        return str(caught.value)

    def test_partitions(self, brokers: type[Brokers]) -> None:
        said = self.check(brokers, default_partitions=1)
        assert said.endswith("Run 'manage.py kafka_setup_topics --increase-partitions'.")

    def test_topic_configs(self, brokers: type[Brokers]) -> None:
        said = self.check(brokers, expiry=900)
        assert said.endswith("Run 'manage.py kafka_setup_topics --alter-configs'.")

    def test_nothing_where_the_command_would_change_nothing(
        self, brokers: type[Brokers], settings: Any
    ) -> None:
        config = {**CONFIG, "default_replication_factor": 3}
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
        said = self.check(brokers)
        assert said == "6 topics not as the settings want."

    def test_a_missing_topic_of_a_worker_channel_that_an_option_names(
        self, brokers: type[Brokers], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kafka_setup_topics, "_SPREAD", 0.1)
        said = self.check(brokers, "--worker-channel", "thumbs")
        command = "manage.py kafka_setup_topics --worker-channel thumbs"
        assert said == f"1 topic missing. Run '{command}'."
