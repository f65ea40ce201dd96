"""The real brokers that other tests run on: do they keep, lose and end what they should?"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import java as java_support
from tests.support import kafka as support
from tests.support.java import Java, missing_java, newest_java
from tests.support.kafka import RealBroker, fetch_jars
from tests.support.records import consume, create_topic, produce
from tests.support.waiting import wait_until, wait_until_async

REPOSITORY = Path(__file__).resolve().parents[2]
NEW_ID = ("kafka.tools.StorageTool", "random-uuid")


class TestSharedBroker:
    def test_what_is_produced_can_be_consumed(self, kafka: str, prefix: str) -> None:
        create_topic(kafka, prefix, partitions=3)
        produce(kafka, prefix, [b"one", b"two"], partition=2)
        records = consume(kafka, prefix, 2, partition=2)
        assert [record.value() for record in records] == [b"one", b"two"]


class TestRealBroker:
    def test_one_that_cannot_start_shows_its_log(self, real_broker_tools: None) -> None:
        broker = RealBroker({"num.partitions": "many"})
        with pytest.raises(RuntimeError, match=r"Invalid value many for configuration num\.part"):
            broker.start()
        assert not broker.running

    def test_a_taken_port_is_given_up_for_another_and_stop_leaves_nothing(
        self, real_broker_tools: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as thief:
            thief.bind(("127.0.0.1", 0))
            thief.listen()
            monkeypatch.setattr(support, "_Port", FirstTaken(support._Port, thief))
            broker = RealBroker()
            broker.start()
            assert broker.running
            assert str(thief.getsockname()[1]) not in broker.bootstrap_servers
        folder, pid = broker.log.parent, broker.pid
        broker.stop()
        broker.stop()
        assert not folder.exists()
        assert not is_alive(pid)
        with pytest.raises(RuntimeError, match="was not started"):
            _ = broker.bootstrap_servers


class TestOrphans:
    """A broker never outlives the Python process that started it, and leaves no data."""

    def test_of_one_that_is_killed(self, real_broker_tools: None) -> None:
        # From a thread that has ended long since: that alone must not end the broker.
        self.ends_with_its_process("""
            starter = threading.Thread(target=broker.start)
            starter.start()
            starter.join()
            broker.wait_ready()
            if os.fork() == 0:
                sys.exit()
            os.wait()
            broker.wait_ready()
            print(broker.pid, broker.log.parent, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """)

    def test_of_one_that_exits(self, real_broker_tools: None) -> None:
        self.ends_with_its_process("""
            broker.launch()
            print(broker.pid, broker.log.parent, flush=True)
            sys.exit()
        """)

    def ends_with_its_process(self, rest: str) -> None:
        told = run_python(f"""
            import os, signal, sys, threading
            from tests.support.kafka import RealBroker
            broker = RealBroker()
            {rest.strip()}
        """)
        pid, folder = told.split()
        wait_until(lambda: not is_alive(int(pid)), f"broker process {pid} to end")
        wait_until(lambda: not Path(folder).exists(), f"its folder {folder} to go")


class TestJars:
    def test_two_processes_fetch_once_and_both_get_all(
        self, real_broker_tools: None, tmp_path: Path
    ) -> None:
        stand_in(tmp_path / "bin" / "mvn", copies=fetch_jars())
        environment = {
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        program = "from tests.support.kafka import fetch_jars; print(fetch_jars())"
        runs = [start_python(program, environment) for _ in range(2)]
        folders = {run.communicate(timeout=60)[0].strip() for run in runs}
        assert folders == {str(tmp_path / "cache" / "kafka-layer" / fetch_jars().name)}
        assert (tmp_path / "bin" / "mvn.calls").read_text() == "called\n"
        (folder,) = folders
        assert len(list(Path(folder).iterdir())) == len(list(fetch_jars().iterdir()))

    def test_a_failing_maven_leaves_no_half_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(tmp_path / "bin" / "mvn", says="no such repository", code=1)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with pytest.raises(RuntimeError, match="no such repository"):
            fetch_jars()
        left = [path.name for path in (tmp_path / "cache" / "kafka-layer").iterdir()]
        assert [name for name in left if not name.endswith(".lock")] == []

    def test_what_is_missing_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("JAVA_HOME", str(installed_java(tmp_path / "old", "11.0.2")))
        newest = 23 if support.KAFKA_VERSION.startswith("3.") else 25
        wanted = f"Java 17 to {newest} (found 11 in {tmp_path / 'old'})"
        assert support.missing_tools() == [wanted, "mvn"]
        with pytest.raises(RuntimeError, match=re.escape(f"needs {wanted}")):
            support.prepare()


class TestJava:
    def test_the_newest_that_fits_is_taken_wherever_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setattr(java_support, "_HOMES", (f"{tmp_path.relative_to('/')}/*",))
        on_path = installed_java(tmp_path / "elsewhere" / "seventeen", "17.0.15")
        monkeypatch.setenv("PATH", str(on_path / "bin"))
        installed_java(tmp_path / "old", "1.8.0_402")
        installed_java(tmp_path / "next", "26")
        (tmp_path / "no-java").mkdir()
        assert newest_java(range(17, 26)) == Java(17, on_path)
        best = installed_java(tmp_path / "twenty-five", "25.0.1")
        (tmp_path / "same").symlink_to(best)
        assert newest_java(range(17, 26)) == Java(25, best)
        assert newest_java(range(17, 24)) == Java(17, on_path)
        monkeypatch.setenv("JAVA_HOME", str(on_path))
        assert newest_java(range(17, 26)) == Java(17, on_path)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "no-java"))
        assert newest_java(range(17, 26)) is None
        assert missing_java(range(17, 26)) == "Java 17 to 25"

    def test_the_cache_has_classes_of_kafka(self, real_broker_tools: None) -> None:
        loaded = run_java(support.prepare(), "-Xlog:class+load", *NEW_ID)
        assert re.search(r"org\.apache\.kafka\.common\.Uuid source: shared objects file", loaded)

    @pytest.mark.parametrize("fault", ["it is missing", "it is something else"])
    def test_a_start_does_without_its_cache(
        self, real_broker_tools: None, tmp_path: Path, fault: str
    ) -> None:
        for path in support.prepare().glob("classes.*"):
            if fault != "it is missing":
                (tmp_path / path.name).write_bytes(bytes(path.stat().st_size))
        run_java(tmp_path, "-version")


class TestWaiting:
    def test_it_returns_what_came(self) -> None:
        answers = iter([None, 0, "there"])
        assert wait_until(lambda: next(answers), "an answer") == "there"

    def test_the_error_says_what_was_awaited_and_what_came(self) -> None:
        with pytest.raises(TimeoutError, match=r"0\.02 s for the sun to rise; .* was 0"):
            wait_until(lambda: 0, "the sun to rise", 0.02)

    def test_an_exception_ends_the_wait(self) -> None:
        with pytest.raises(ZeroDivisionError):
            wait_until(lambda: 1 // 0, "nothing")

    def test_the_async_one_lets_the_loop_run(self) -> None:
        async def scenario() -> str:
            said: list[str] = []
            asyncio.get_running_loop().call_soon(said.append, "hello")
            await wait_until_async(lambda: said, "a word")
            with pytest.raises(TimeoutError, match="another word"):
                await wait_until_async(lambda: len(said) > 1, "another word", 0.02)
            return said[0]

        assert asyncio.run(scenario()) == "hello"


class FirstTaken:
    """Makes ports; the first one is a port on which somebody else listens already."""

    def __init__(self, make: type[support._Port], thief: socket.socket) -> None:
        self._make, self._taken = make, [thief.getsockname()[1]]

    def __call__(self) -> support._Port:
        port = self._make()
        if self._taken:
            port.number = self._taken.pop()
        return port


def stand_in(path: Path, copies: Path | None = None, says: str = "", code: int = 0) -> None:
    """Write a program to take Maven's place: it notes its call, and copies a folder of jars."""
    lines = ["#!/bin/sh", 'echo called >> "$0.calls"', f'echo "{says}"']
    if copies:
        lines.append(f'for a; do case "$a" in -Doutput*) cp -r "{copies}" "${{a#*=}}";; esac; done')
    path.parent.mkdir()
    path.write_text("\n".join([*lines, f"exit {code}", ""]))
    path.chmod(0o755)


def installed_java(home: Path, version: str) -> Path:
    """Make what looks like a Java's folder, and return it."""
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").touch(mode=0o755)
    (home / "release").write_text(f'IMPLEMENTOR="Somebody"\nJAVA_VERSION="{version}"\n')
    return home


def run_java(cache: Path, *arguments: str) -> str:
    """Run the Java of the brokers, with a cache and Kafka's jars, and return what it prints."""
    java = newest_java(support._JAVA_VERSIONS)
    assert java is not None
    jars = ["-cp", f"{fetch_jars()}/*"]
    done = subprocess.run(
        [java.program, *java.cached(cache), *jars, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start_python(program: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def run_python(program: str) -> str:
    """Run a program of its own and return what it printed, however it ended."""
    process = start_python(program, {})
    printed, _ = process.communicate(timeout=90)
    assert printed, f"it printed nothing and ended with {process.returncode}"
    return printed


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be collected does not."""
    ps = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return ps.stdout.strip() != "" and not ps.stdout.startswith("Z")
