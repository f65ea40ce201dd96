"""What the chat does with the layer, on a real Kafka and two workers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import pytest
from confluent_kafka import Producer
from websockets.exceptions import ConnectionClosedError

from tests.support.waiting import PATIENCE

from .demo import AMBIENT, START_TIMEOUT, Client, Demo, join, play, within
from .test_demo import everyone_hears_the_same


async def roll_call(asker: Client, expected: list[Client]) -> dict[str, Mapping[str, Any]]:
    """Return who answered, by connection, when all that are expected did."""
    await asker.send({"type": "who"})
    answers: dict[str, Mapping[str, Any]] = {}
    while not {page.connection for page in expected} <= answers.keys():
        member = (await asker.receive("here"))["member"]
        answers[member["connection"]] = member
    return answers


def conversation(frames: list[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [frame for frame in frames if frame["type"] not in AMBIENT]


def test_twenty_people_hear_the_same(demo: Demo) -> None:
    play(everyone_hears_the_same(demo, people=20, rooms=3))


class TestDirectMessages:
    def test_all_pages_of_both_get_it_and_nobody_else(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            address = demo.address
            ada = await asyncio.to_thread(join, address, "Ada", room)
            bob = await asyncio.to_thread(join, address, "Bob", room)
            ada_1 = await Client.tab(ada, "Ada", on="worker-1")
            ada_2 = await Client.tab(ada, "Ada", on="worker-2")
            bob_1 = await Client.tab(bob, "Bob", on="worker-1")
            bob_2 = await Client.tab(bob, "Bob", on="worker-2")
            others = [
                await Client.join(address, "Eve", room, on="worker-1"),
                await Client.join(address, "Eve", room, on="worker-2"),
                await Client.join(address, "Bob", f"{room}-2"),  # the same name is not the same
            ]

            await ada_1.say_to(bob_1.person, "just for you")
            for page in (ada_1, ada_2, bob_1, bob_2):
                direct = await page.receive("direct")
                assert direct["text"] == "just for you"
                assert direct["author"] == ada_1.person
                assert direct["to"] == bob_1.person
                assert (direct["sent_by"], direct["delivered_by"]) == ("worker-1", page.worker)

            # Once each, and nobody else: a second one is the end of what could still come.
            await ada_1.say_to(bob_1.person, "that was all")
            for page in (ada_1, ada_2, bob_1, bob_2):
                assert conversation(await page.frames_until("direct", "that was all")) == []
            for other in others:
                await other.say("all quiet")
                frames = await other.frames_until("message", "all quiet")
                assert {frame["type"] for frame in frames} <= AMBIENT | {"message"}

        play(scenario())

    def test_they_find_their_person_in_another_room(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room)
            bob = await Client.join(demo.address, "Bob", f"{room}-2")
            await ada.say_to(bob.person, "hello over there")
            assert (await bob.receive("direct"))["text"] == "hello over there"

        play(scenario())

    def test_a_note_to_oneself_comes_once(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room)
            await ada.say_to(ada.person, "remember")
            await ada.say_to(ada.person, "that was all")
            assert len(conversation(await ada.frames_until("direct", "that was all"))) == 1

        play(scenario())

    @pytest.mark.parametrize(
        ("to", "problem"),
        [
            ({"id": "everyone", "name": "Bob"}, "nobody like that"),
            ({"id": "0123456789ab", "name": "\u200b"}, "visible characters"),
            ({"id": "0123456789ab"}, "does not know"),
        ],
    )
    def test_to_somebody_impossible_is_answered(
        self, demo: Demo, room: str, to: Mapping[str, str], problem: str
    ) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room)
            await ada.say_to(to, "hello")
            assert problem in (await ada.receive("problem"))["text"]

        play(scenario())


class TestPresence:
    def test_joined_and_left_reach_the_others_and_not_oneself(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room, on="worker-1")
            bob_ticket = await asyncio.to_thread(join, demo.address, "Bob", room)
            bob = await Client.tab(bob_ticket, "Bob")
            joined = await ada.receive("joined")
            # Ada's first connection may have led elsewhere, and be announced late.
            while joined["member"]["connection"] != bob.connection:
                assert joined["member"]["person"] == ada.person
                joined = await ada.receive("joined")
            assert joined["member"]["person"] == bob.person
            assert joined["member"]["worker"] == bob.worker
            await bob.say("hello")
            frames = await bob.frames_until("message", "hello")
            assert bob.connection not in {frame["member"]["connection"] for frame in frames}
            await ada.receive("message")

            await bob.close()
            left = await ada.receive("left")
            while left["member"]["connection"] != bob.connection:
                left = await ada.receive("left")
            assert left["member"]["person"] == bob.person

        play(scenario())

    def test_all_pages_in_the_room_answer_a_roll_call(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            address = demo.address
            ada = await asyncio.to_thread(join, address, "Ada", room)
            here = [
                await Client.tab(ada, "Ada", on="worker-1"),
                await Client.tab(ada, "Ada", on="worker-2"),
                await Client.join(address, "Bob", room, on="worker-2"),
            ]
            elsewhere = await Client.join(address, "Eve", f"{room}-2")
            answers = await roll_call(here[0], here)
            for page in here:
                assert answers[page.connection]["person"] == page.person
                assert answers[page.connection]["worker"] == page.worker
            assert elsewhere.connection not in answers
            # The answers are for who asked.
            for other in here[1:]:
                await other.say("done")
                frames = await other.frames_until("message", "done")
                assert "here" not in {frame["type"] for frame in frames}

        play(scenario())

    def test_pages_of_a_lost_worker_do_not_answer(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room, on="worker-1")
            bob = await Client.join(demo.address, "Bob", room, on="worker-2")
            await ada.receive("joined")
            pid = demo.kill("worker-2")
            await asyncio.to_thread(demo.wait_until_gone, pid)
            carol = await Client.join(demo.address, "Carol", room, on="worker-1")
            answers = await roll_call(ada, [ada, carol])
            assert bob.connection not in answers
            await asyncio.to_thread(demo.wait_until_back, "worker-2", pid)

        play(scenario())

    def test_pages_that_lost_their_worker_are_spread_over_the_others(
        self, demo: Demo, room: str
    ) -> None:
        async def scenario() -> None:
            ticket = await asyncio.to_thread(join, demo.address, "Ada", room)
            crowd = [await Client.tab(ticket, "Ada", on="worker-1") for _ in range(3)]

            async def hear_of_the_other() -> None:
                # Just now, and not in a report that has waited to be read.
                report, asked = {"worker": "", "pages": 0}, 0.0
                while (
                    report["worker"] != "worker-2"
                    or report["pages"] > 0
                    or time.monotonic() - asked < 0.01
                ):
                    asked = time.monotonic()
                    report = dict(await crowd[-1].next_of("worker"))

            async def come_back() -> str:
                """Return the worker that lets a page in; "" if it is sent on."""
                back = ["kafka-layer.v1", "kafka-layer.position.from-before"]
                page, worker = await Client.open(ticket, "Ada", *back), ""
                with contextlib.suppress(ConnectionClosedError):
                    frame = json.loads(await within(page.websocket.recv(), "a page to be let in"))
                    worker = frame["d"]["worker"]
                sent_on = page.websocket.close_code
                await page.close()
                assert sent_on in (None, 4503)
                return worker

            # A worker that has not heard of the other one for 3 s sends no page on.
            taken: set[str] = set()
            deadline = time.monotonic() + PATIENCE
            while taken != {"worker-2"} and time.monotonic() < deadline:
                await hear_of_the_other()
                taken = set(await asyncio.gather(*(come_back() for _ in range(12)))) - {""}
            assert taken == {"worker-2"}

        play(scenario())

    def test_a_page_is_known_again_by_its_tab(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room)
            ticket = await asyncio.to_thread(join, demo.address, "Bob", room)
            tabs = []
            for tab in ("abc123", "abc123", "<script>"):
                await Client.tab(ticket.named(tab), "Bob")
                tabs.append((await ada.receive("joined"))["member"]["tab"])
            assert tabs[:2] == ["abc123", "abc123"]
            assert re.fullmatch("[0-9a-f]{12}", tabs[2])

        play(scenario())


class TestTyping:
    def test_it_reaches_the_others_and_is_throttled(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room, on="worker-1")
            bob = await Client.join(demo.address, "Bob", room, on="worker-2")
            started = time.monotonic()
            for _ in range(30):
                await ada.send({"type": "typing"})
            await ada.say("there")  # typing takes nothing from what may be said
            types = [frame["type"] for frame in await ada.frames_until("message", "there")]
            assert "typing" not in types
            seconds = time.monotonic() - started
            typing = [
                frame
                for frame in await bob.frames_until("message", "there")
                if frame["type"] == "typing"
            ]
            assert {frame["person"]["id"] for frame in typing} == {ada.person["id"]}
            assert 3 <= len(typing) <= 4 + seconds  # three at once, and one a second

        play(scenario())


class TestAnnouncements:
    def test_everyone_in_all_rooms_hears_it_once(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            pages = [
                await Client.join(demo.address, "Ada", f"{room}-{number}", on=worker)
                for number in (1, 2)
                for worker in sorted(demo.workers)
            ]
            # One connection leads to one worker, whose announcements have an order.
            staff = Staff(demo)
            status, page = await asyncio.to_thread(staff.announce, "<b>Tea</b> is ready")
            assert (status, "&lt;b&gt;Tea&lt;/b&gt; is ready" in page) == (200, True)
            for page_ in pages:
                heard = await page_.receive("announcement")
                assert heard["text"] == "<b>Tea</b> is ready"
                assert heard["delivered_by"] == page_.worker
                assert heard["sent_by"] in demo.workers
            await asyncio.to_thread(staff.announce, "that was all")
            for page_ in pages:
                frames = await page_.frames_until("announcement", "that was all")
                assert conversation(frames) == []

        play(scenario())

    def test_a_job_worker_survives_them(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room)
            staff = Staff(demo)
            await asyncio.to_thread(staff.announce, "to every open channel")
            await ada.receive("announcement")
            await ada.say("/roll")
            assert (await ada.answer_to("/roll"))["sent_by"] == "job-1"

        before = demo.worker_pids("job-1")
        play(scenario())
        assert demo.worker_pids("job-1") == before

    def test_only_with_the_token(self, demo: Demo) -> None:
        status, page = Staff(demo, token="guess").announce("hello")
        assert status == 403
        assert "not the token" in page

    def test_only_with_a_text(self, demo: Demo) -> None:
        status, page = Staff(demo).announce("  ")
        assert status == 400
        assert "nothing to send" in page


class TestProgramsThatTalk:
    def test_a_view_posts_into_a_room(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            pages = [
                await Client.join(demo.address, "Ada", room, on=worker)
                for worker in sorted(demo.workers)
            ]
            staff = Staff(demo)
            answer = await asyncio.to_thread(
                staff.post, room=room, text="Build 7 passed", name="CI"
            )
            worker = re.fullmatch(rf"Said in #{room}, through (worker-\d)\.\n", answer[1])
            assert answer[0] == 200
            assert worker
            for page in pages:
                message = await page.receive("message")
                assert message["text"] == "Build 7 passed"
                assert message["author"] == {"id": "", "name": "CI"}
                assert (message["sent_by"], message["delivered_by"]) == (worker[1], page.worker)

        play(scenario())

    @pytest.mark.parametrize(
        ("fields", "status", "reason"),
        [
            ({"room": "lobby", "text": "hi", "token": "guess"}, 403, "not the token"),
            ({"room": "lobby", "text": ""}, 400, "nothing to send"),
            ({"room": "café", "text": "hi"}, 400, "made of the letters"),
            ({"text": "hi"}, 400, "name a room"),
        ],
    )
    def test_a_post_that_cannot_be_says_why(
        self, demo: Demo, fields: dict[str, str], status: int, reason: str
    ) -> None:
        answer = Staff(demo).post(**fields)
        assert answer[0] == status
        assert reason in answer[1]
        assert "<" not in answer[1]

    @pytest.mark.parametrize(
        "value",
        ['{"type": "chat.message", "text": "from a console"}', '{"type": "chat.message"}'],
    )
    def test_a_program_outside_django_writes_to_kafka(
        self, demo: Demo, kafka: str, room: str, value: str
    ) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room)
            producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
            producer.produce(f"{demo.prefix}-send-group", value, f"room-{room}")
            assert producer.flush(PATIENCE) == 0
            message = await ada.receive("message")
            assert message["text"] == json.loads(value).get("text", "")
            assert message["author"] == {"id": "", "name": "A program"}
            assert message["sent_by"] is message["sent_at"] is message["transit_ms"] is None

        play(scenario())


class TestBackgroundJobs:
    def test_the_answer_comes_back_to_the_room(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room, on="worker-1")
            bob = await Client.join(demo.address, "Bob", room, on="worker-2")
            await ada.say("/primes 1,000,000")
            for page in (ada, bob):
                answer = await page.answer_to("/primes 1,000,000")
                assert answer["text"] == "There are 78,498 primes up to 1,000,000."
                assert answer["answers"]["person"] == ada.person
                assert (answer["sent_by"], answer["delivered_by"]) == ("job-1", page.worker)
            await bob.say("/roll 3d6")
            answer = await ada.answer_to("/roll 3d6")
            rolled = re.fullmatch(r"(\d) \+ (\d) \+ (\d) = (\d+)", answer["text"])
            assert rolled
            *dice, total = map(int, rolled.groups())
            assert sum(dice) == total
            assert all(1 <= each <= 6 for each in dice)

        play(scenario())

    @pytest.mark.parametrize(
        ("command", "problem"),
        [
            ("/dance", "The commands are"),
            ("/roll 21d6", "Up to 20 dice"),
            ("/roll 0d6", "Up to 20 dice"),
            ("/primes 20,000,001", "up to 20,000,000"),
            ("/primes many", "The commands are"),
        ],
    )
    def test_a_command_that_cannot_be_is_answered_to_its_author_alone(
        self, demo: Demo, room: str, command: str, problem: str
    ) -> None:
        async def scenario() -> None:
            ada = await Client.join(demo.address, "Ada", room)
            bob = await Client.join(demo.address, "Bob", room)
            await ada.say(command)
            assert problem in (await ada.receive("problem"))["text"]
            await ada.say("sorry")
            assert await bob.hear(1) == ["sorry"]

        play(scenario())

    def test_jobs_wait_for_a_worker_that_comes_back(self, demo: Demo, room: str) -> None:
        async def scenario() -> None:
            before = demo.worker_pids("job-1")
            ada = await Client.join(demo.address, "Ada", room)
            await ada.say("/roll")
            assert (await ada.answer_to("/roll"))["sent_by"] == "job-1"
            os.kill(before[-1], signal.SIGTERM)
            await asyncio.to_thread(demo.wait_until_gone, before[-1])
            await ada.say("/roll 2d6")
            await ada.answer_to("/roll 2d6", START_TIMEOUT)
            await asyncio.to_thread(demo.wait_until_back, "job-1", before[-1])
            assert demo.worker_pids("job-1")[:-1] == before
            assert "job-1 | ended with exit code 0; starting it again" in demo.lines

        play(within(scenario(), "a job to outlive its worker", 100.0))


class Staff:
    """Somebody with the token, who talks to one worker over one HTTP connection."""

    def __init__(self, demo: Demo, *, token: str | None = None) -> None:
        self._token = demo.staff_token if token is None else token
        self._connection = http.client.HTTPConnection("127.0.0.1", demo.port, timeout=PATIENCE)

    def announce(self, text: str) -> tuple[int, str]:
        """Fill in the form; return status and page."""
        self._connection.request("GET", "/announce/")
        response = self._connection.getresponse()
        cookie = (response.getheader("Set-Cookie") or "").partition(";")[0]
        csrf = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', response.read().decode())
        assert csrf is not None, "the form has no CSRF token"
        fields = {"text": text, "token": self._token, "csrfmiddlewaretoken": csrf[1]}
        return self._send("/announce/", fields, {"Cookie": cookie})

    def post(self, **fields: str) -> tuple[int, str]:
        """Do what the page's curl command does; return status and answer."""
        return self._send("/post/", {"token": self._token, **fields}, {})

    def _send(
        self, path: str, fields: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, str]:
        form = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        self._connection.request("POST", path, urllib.parse.urlencode(fields), form)
        response = self._connection.getresponse()
        return response.status, response.read().decode()


def test_two_demos_do_not_share_a_port(demo: Demo) -> None:
    with (
        pytest.raises(RuntimeError, match="is taken"),
        Demo("--port", str(demo.port), workers=1),
    ):
        pass
