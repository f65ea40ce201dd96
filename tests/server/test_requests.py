"""Requests and their answers: in time, late, failed; and which servers owe one."""

from __future__ import annotations

import pytest

from kafka_layer.exceptions import CommandFailed, LayerClosed
from kafka_layer.server.requests import Requests
from kafka_layer.wire.names import ServerName
from tests.support.tables import for_each

OWNER, OTHER = ServerName(0, "abcdef01"), ServerName(1, "abcdef02")


def test_an_answer_resolves_its_request_and_no_other() -> None:
    requests = Requests()
    first, second = requests.open(5, OWNER), requests.open(5, OWNER)
    requests.answer(second.number, {"id": second.number}, 12.5)
    assert second.answer.result(0) == 12.5
    assert not first.answer.done
    assert len(requests) == 1


def test_an_error_fails_the_request() -> None:
    requests = Requests()
    request = requests.open(5, OWNER)
    requests.answer(request.number, {"error": "no"}, 0.0)
    with pytest.raises(CommandFailed, match="no"):
        request.answer.result(0)


@for_each("number", [None, "1", 1.0, [], 99])
def test_an_answer_to_nothing_is_ignored(number: object) -> None:
    requests = Requests()
    request = requests.open(5, OWNER)
    requests.answer(number, {}, 0.0)
    assert not request.answer.done


def test_an_answer_after_a_request_was_forgotten_is_ignored() -> None:
    requests = Requests()
    request = requests.open(5, OWNER)
    requests.forget(request)
    requests.answer(request.number, {}, 0.0)
    assert not request.answer.done
    assert len(requests) == 0


def test_a_roll_call_takes_the_answers_of_all() -> None:
    requests = Requests()
    call = requests.open_roll_call()
    for server in ("a", "b", "a"):
        requests.answer(call.number, {"id": call.number, "server": server, "groups": 1}, 0.0)
    assert call.servers == {each: {"server": each, "groups": 1} for each in ("a", "b")}
    requests.forget(call)
    assert len(requests) == 0


class TestSilence:
    def test_a_server_that_gave_no_answer_is_silent(self) -> None:
        requests = Requests()
        requests.give_up(requests.open(5, OWNER))
        assert requests.is_silent(OWNER)
        assert not requests.is_silent(OTHER)
        assert requests.silent == 1

    def test_one_whose_request_was_forgotten_is_not(self) -> None:
        requests = Requests()
        requests.forget(requests.open(5, OWNER))
        assert not requests.is_silent(OWNER)

    @pytest.mark.parametrize("late", [False, True], ids=["another answer", "the late answer"])
    def test_any_answer_ends_it(self, late: bool) -> None:
        requests = Requests()
        request = requests.open(5, OWNER)
        requests.give_up(request)
        answered = request if late else requests.open(5, OWNER)
        requests.answer(answered.number, {}, 0.0)
        assert not requests.is_silent(OWNER)

    def test_no_more_than_a_thousand_are_remembered(self) -> None:
        requests = Requests()
        for number in range(1500):
            requests.give_up(requests.open(5, ServerName(0, f"{number:08x}")))
        assert requests.silent == 1000
        assert requests.is_silent(ServerName(0, f"{1499:08x}"))


class TestBroadcastCommand:
    def test_it_is_done_when_all_that_have_it_are_and_no_more_are_expected(self) -> None:
        requests = Requests()
        broadcast = requests.open_broadcast()
        for server in ("a", "b"):
            requests.answer(broadcast.number, {"server": server, "taken": True}, 0.0)
        requests.answer(broadcast.number, {"server": "a"}, 0.0)
        broadcast.expect_no_more()
        assert broadcast.under_way == ["b"]
        assert not broadcast.done.done
        requests.answer(broadcast.number, {"server": "b", "error": "no"}, 0.0)
        assert broadcast.done.done
        assert broadcast.servers["b"] == {"server": "b", "error": "no"}

    def test_a_server_may_be_done_before_it_says_that_it_has_it(self) -> None:
        broadcast = Requests().open_broadcast()
        broadcast.take({"server": "a"}, 0.0)
        broadcast.take({"server": "a", "taken": True}, 0.0)
        broadcast.expect_no_more()
        assert broadcast.done.done

    def test_a_close_fails_it(self) -> None:
        requests = Requests()
        broadcast = requests.open_broadcast()
        requests.close(LayerClosed("closed"))
        with pytest.raises(LayerClosed):
            broadcast.done.result(0)
        with pytest.raises(LayerClosed):
            requests.open_broadcast().done.result(0)
