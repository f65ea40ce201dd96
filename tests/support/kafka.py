"""Real Apache Kafka brokers, from Maven's jars, for tests and benchmarks.

No container engine is needed: Java 17 to 25 (the newest that is found, or the one that
``JAVA_HOME`` names), Maven for the first run, a POSIX system.
"""

from __future__ import annotations

import atexit
import base64
import functools
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.support.cache import cached, made_once
from tests.support.java import Java, missing_java, newest_java
from tests.support.rehearsal import rehearse
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "DEFAULT_KAFKA_VERSION",
    "KAFKA_VERSION",
    "STEADY",
    "Node",
    "RealBroker",
    "RealCluster",
    "fetch_jars",
    "missing_tools",
    "prepare",
    "run_kafka_tool",
]

_POM: Final = Path(__file__).with_name("kafka-pom.xml")
_HOST: Final = "127.0.0.1"
_FETCH_TIMEOUT: Final = 600.0
_START_TIMEOUT: Final = 90.0
_STOP_TIMEOUT: Final = 30.0
_CACHE_TIMEOUT: Final = 180.0
_START_ATTEMPTS: Final = 3
_LOG_TAIL_LINES: Final = 40
_PORT_TAKEN: Final = "Address already in use"
_CHECKPOINT: Final = "bootstrap.checkpoint"

# A file system in memory, for data of tests: a broker that makes a partition waits 5 ms for a disk.
_MEMORY: Final = Path("/dev/shm")
_LEAST_MEMORY: Final = 2 << 30

# Warnings and errors only: the end of the log, which errors show, then has the cause.
_LOGGING: Final = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)

# Small, quick to settle, quick to restart.
_PROPERTIES: Final[Mapping[str, str]] = {
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "300",
    # A killed broker serves again only when this has passed since it was alive.
    "broker.session.timeout.ms": "3000",
    "group.consumer.heartbeat.interval.ms": "500",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "3000",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "2097152",  # cleared at each start; else 128 MiB
    "metadata.max.idle.interval.ms": "0",  # else it writes to its log twice a second
    "num.partitions": "4",
    "offsets.topic.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
}

# Properties of a broker that no test kills: its controller fences it, so that nobody can create
# topics, when the machine stands still for a session.
STEADY: Final[Mapping[str, str]] = {"broker.session.timeout.ms": "15000"}

# Ends a broker whose Python process went away without a word (SIGKILL, a crash): the pipe
# to its standard input closes then. A parent-death signal would not do: it comes already
# when the *thread* that started the broker ends.
_WATCHDOG: Final = 'read -r _; kill -9 "$1" 2>/dev/null; rm -rf -- "$2"'


def _kafka_version() -> str:
    version = ElementTree.parse(_POM).findtext("properties/kafka.version")
    assert version, f"{_POM} has no property kafka.version"
    return version


# The version that the tests are for; ``KAFKA_LAYER_KAFKA_VERSION`` asks for another one.
DEFAULT_KAFKA_VERSION: Final = _kafka_version()
KAFKA_VERSION: Final = os.environ.get("KAFKA_LAYER_KAFKA_VERSION") or DEFAULT_KAFKA_VERSION
_KAFKA_3: Final = KAFKA_VERSION.startswith("3.")
_JAVA_VERSIONS: Final = range(17, 24 if _KAFKA_3 else 26)


def missing_tools() -> list[str]:
    """Return what a real broker needs here and does not find: a Java, and ``mvn``."""
    missing = [] if newest_java(_JAVA_VERSIONS) else [missing_java(_JAVA_VERSIONS)]
    if not _jars_folder().is_dir() and shutil.which("mvn") is None:
        missing.append("mvn")
    return missing


def fetch_jars() -> Path:
    """Return the folder with Kafka's jars; the first call has Maven fill it.

    Later calls need no network and no Maven. Several processes may call it at the same
    time: one fetches, the others wait for it.

    Raises:
        RuntimeError: Maven failed; the message has what it said.
    """
    return made_once(_jars_folder(), _copy_dependencies)


def prepare() -> Path:
    """Return the folder with what makes starts short: the first call with this Java makes it.

    That is what the storage tool writes for all nodes alike, and the classes of a broker in the
    form that the JVM has in its memory. It takes ten to twenty seconds.

    Raises:
        RuntimeError: There is no Java, no jars, or the broker did not start.
    """
    java, jars = _newest_java(), fetch_jars()
    java_id = hashlib.sha256(java.identity().encode()).hexdigest()[:8]
    return made_once(jars.with_name(f"{jars.name}-start-{java_id}"), _make_start)


def run_kafka_tool(main: str, *arguments: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of Kafka's command line tools, by its class, with these lines as its input."""
    return _run(_java(main, *arguments, options=_fast_start()), lines=lines)


class Node:
    """One combined broker and controller: its process, and its data in a temporary folder.

    The folder is in memory, where there is room for it.

    It listens on loopback ports that the kernel chose and keeps them, and its data, over
    :meth:`kill`, :meth:`halt` and :meth:`restart`, until :meth:`stop`. It never outlives
    this Python process, however that ends.

    Args:
        node_id: Its id in the cluster.
        properties: Broker properties that replace or add to those of the tests.
        jvm_fast_start: Start in half the time, and be slower once warm; data in memory: not for
            benchmarks.
        jvm_options: More options for ``java``.
        heap_mb: The heap's size in MiB.
        client_config: librdkafka properties with which the readiness check connects, where
            ``properties`` ask for some (SASL, TLS).
        listeners: More listeners beside the one for plain text: names to security protocols.
        advertised: By which port clients come to some of these, if not by their own.
        class_path: Where it finds classes beside its own.
    """

    def __init__(
        self,
        node_id: int = 1,
        properties: Mapping[str, object] | None = None,
        *,
        jvm_fast_start: bool = True,
        jvm_options: Sequence[str] = (),
        heap_mb: int = 512,
        client_config: Mapping[str, Any] | None = None,
        listeners: Mapping[str, str] | None = None,
        advertised: Mapping[str, int] | None = None,
        class_path: Path | None = None,
    ) -> None:
        self.node_id = node_id
        self.cluster: Sequence[Node] = (self,)
        self._properties = {name: str(value) for name, value in (properties or {}).items()}
        heap = (f"-Xms{heap_mb}m", f"-Xmx{heap_mb}m")
        self._fast_start = jvm_fast_start
        self._jvm_options = (*heap, *_LOGGING, *jvm_options)
        self._client_config = dict(client_config or {})
        self._listeners = dict(listeners or {})
        self._advertised = dict(advertised or {})
        self._class_path = class_path
        self._more_ports: dict[str, _Port] = {}
        self._owner_pid = os.getpid()
        self._folder: Path | None = None
        self._ports: tuple[_Port, _Port] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """This node's ``host:port``, also while it is down."""
        return f"{_HOST}:{self._both_ports()[0].number}"

    def address(self, listener: str) -> str:
        """Return ``host:port`` of one of the further listeners."""
        return f"{_HOST}:{self._more_ports[listener].number}"

    @property
    def running(self) -> bool:
        """Whether its process is alive (a frozen one is)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._running_process().pid

    @property
    def log(self) -> Path:
        """The file with all that it printed, over its restarts; removed by :meth:`stop`."""
        return self._data_folder() / "broker.log"

    def start(self) -> None:
        """Start it and return when it serves; nothing happens when it runs already.

        After :meth:`kill` or :meth:`halt` it continues with its port and data.

        Raises:
            RuntimeError: It did not become ready; the message has the end of its log.
        """
        if self.running:
            return
        if self._folder is None:
            _start_fresh(self.cluster)
        else:
            self.launch()
            self.wait_ready()

    def launch(self) -> None:
        """Start its process, with the data it has or new data, and do not wait until it serves."""
        if self._folder is None:
            _make_fresh(self.cluster)
        self._process_ended()
        for port in (*self._both_ports(), *self._more_ports.values()):
            port.lend()
        options = (*(_fast_start() if self._fast_start else ()), *self._jvm_options)
        settings = str(self._settings_file())
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                _java("kafka.Kafka", settings, options=options, more_classes=self._class_path),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests; they end it in their order
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", str(self.pid), str(self._data_folder())],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        _started.add(self)

    def segment(self, topic: str, partition: int) -> Path:
        """Return the file that has the log of a partition, as long as it has but one."""
        return self._data_folder() / "data" / f"{topic}-{partition}" / f"{0:020}.log"

    def wait_ready(self, timeout: float = _START_TIMEOUT) -> None:
        """Return when it answers and the controller has unfenced it.

        Args:
            timeout: Seconds.

        Raises:
            RuntimeError: It ended, or was not ready in time; with the end of its log.
        """
        what = f"{self} to answer an admin request and be unfenced"
        admin = functools.cache(self._admin)  # one for the whole wait, as soon as the port answers
        try:
            wait_until(lambda: self._is_ready(admin), what, timeout, pause=0.05)
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{self._log_tail()}") from None

    def kill(self) -> None:
        """End it with SIGKILL; port and data stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process_ended()

    def halt(self, timeout: float = _STOP_TIMEOUT) -> None:
        """Let it shut down cleanly (SIGTERM); port and data stay.

        Args:
            timeout: Seconds.

        Raises:
            RuntimeError: It took longer and was killed; with the end of its log.
        """
        if self._process is None:
            return
        self._process.terminate()
        self.thaw()  # a frozen process would take the signal only later
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(
                f"{self} did not shut down in {timeout:g} s and was killed.\n{self._log_tail()}"
            ) from None
        self._process_ended()

    def restart(self) -> None:
        """Shut it down cleanly and start it again, with the same port and data."""
        self.halt()
        self.start()

    def freeze(self) -> None:
        """Stop its time (SIGSTOP): its connections stay open and nothing answers.

        Returns once all its threads stand still.
        """
        process = self._running_process()
        process.send_signal(signal.SIGSTOP)
        # As it is: the status of its end, too, is for Popen.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on after :meth:`freeze` (SIGCONT)."""
        self._running_process().send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it at once and remove its data; nothing happens when it was not started."""
        self.kill()
        _started.discard(self)
        for port in (*(self._ports or ()), *self._more_ports.values()):
            port.release()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._ports = None

    def format(self, cluster_id: str | None = None) -> None:
        """Make its data that of a new node, as Kafka's storage tool does, without a JVM.

        Args:
            cluster_id: Which cluster it belongs to; a new one if none is named.
        """
        data = self._data_folder() / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        shutil.copy(prepare() / _CHECKPOINT, data)
        properties = {
            "version": "1",
            "cluster.id": cluster_id or _new_id(),
            "node.id": str(self.node_id),
            "directory.id": _new_id(),
        }
        _write_properties(data / "meta.properties", properties)

    def __str__(self) -> str:
        return f"Kafka {KAFKA_VERSION} node {self.node_id}"

    # What _start_fresh does with it, in this order.

    def _prepare(self) -> None:
        memory = _memory() if self._fast_start else None
        self._folder = Path(tempfile.mkdtemp(prefix=f"kafka-node-{self.node_id}-", dir=memory))
        self._ports = (_Port(), _Port())
        self._more_ports = {name: _Port() for name in self._listeners}

    def _write_settings(self) -> None:
        controller = self._both_ports()[1].number
        replicas = str(min(3, len(self.cluster)))
        settings = {
            **_PROPERTIES,
            "default.replication.factor": replicas,
            "min.insync.replicas": str(min(2, len(self.cluster))),
            "offsets.topic.replication.factor": replicas,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": "1",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": "1",
            "node.id": str(self.node_id),
            "process.roles": "broker,controller",
            "listeners": f"{self._addresses({})},CONTROLLER://{_HOST}:{controller}",
            "advertised.listeners": self._addresses(self._advertised),
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": ",".join(node._voter() for node in self.cluster),
            "log.dirs": str(self._data_folder() / "data"),
            **self._protocols(),
            **self._properties,
        }
        _write_properties(self._settings_file(), settings)

    def _addresses(self, others: Mapping[str, int]) -> str:
        """Return the listeners of clients, some with other ports than their own."""
        own = {"PLAINTEXT": self._both_ports()[0].number}
        own |= {name: port.number for name, port in self._more_ports.items()}
        return ",".join(f"{name}://{_HOST}:{port}" for name, port in (own | dict(others)).items())

    def _protocols(self) -> dict[str, str]:
        if not self._listeners:
            return {}
        own = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **self._listeners}
        protocols = ",".join(f"{name}:{protocol}" for name, protocol in own.items())
        return {"listener.security.protocol.map": protocols}

    def _lost_its_port(self) -> bool:
        if self._folder is None or not self.log.exists():
            return False
        return _PORT_TAKEN in self.log.read_text(errors="replace")

    def _admin(self) -> AdminClient:
        own = {"bootstrap.servers": self.bootstrap_servers, "log_level": 0}
        return AdminClient(own | {"reconnect.backoff.max.ms": 100} | self._client_config)

    def _is_ready(self, admin: Callable[[], AdminClient]) -> bool:
        if not self.running:
            code = self._process.returncode if self._process else None
            raise RuntimeError(f"{self} ended with {code} as it started.\n{self._log_tail()}")
        if not self._both_ports()[0].answers():
            return False
        try:
            # A broker is in the metadata only once the controller has unfenced it.
            metadata = admin().list_topics(timeout=1)
        except KafkaException:
            return False
        return self.node_id in metadata.brokers

    def _process_ended(self) -> None:
        self._process = None
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None

    def _running_process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self} is not running")
        return self._process

    def _voter(self) -> str:
        return f"{self.node_id}@{_HOST}:{self._both_ports()[1].number}"

    def _log_tail(self) -> str:
        if not self.log.exists():
            return "It has no log."
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(["The end of its log:", *lines])

    def _settings_file(self) -> Path:
        return self._data_folder() / "server.properties"

    def _data_folder(self) -> Path:
        if self._folder is None:
            raise RuntimeError(f"{self} was not started")
        return self._folder

    def _both_ports(self) -> tuple[_Port, _Port]:
        if self._ports is None:
            raise RuntimeError(f"{self} was not started")
        return self._ports


class RealBroker(Node):
    """A whole Kafka in one process; see :class:`Node` for what it can do.

    Args:
        properties: Broker properties that replace or add to those of the tests.
        options: The keywords of :class:`Node`.
    """

    def __init__(self, properties: Mapping[str, object] | None = None, **options: Any) -> None:
        super().__init__(1, properties, **options)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class RealCluster:
    """Several nodes that form one Kafka.

    Topics have 3 replicas, 2 of them in sync, unless told otherwise (fewer on fewer nodes).

    To make one fail, use the verbs of ``cluster.node(2)``. A majority of the nodes must
    live for leaders to change.

    Args:
        size: How many nodes, numbered from 1.
        properties: Broker properties for all of them.
        options: The keywords of :class:`Node`.
    """

    def __init__(
        self, size: int = 3, properties: Mapping[str, object] | None = None, **options: Any
    ) -> None:
        self.nodes = tuple(Node(node_id, properties, **options) for node_id in range(1, size + 1))
        for node in self.nodes:
            node.cluster = self.nodes

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all nodes, of those that are down too."""
        return ",".join(node.bootstrap_servers for node in self.nodes)

    def node(self, node_id: int) -> Node:
        """Return the node with this id: the ids are those that Kafka's metadata names."""
        return self.nodes[node_id - 1]

    def start(self) -> None:
        """Start all nodes that do not run, and return when each serves.

        Raises:
            RuntimeError: One did not become ready; the message has the end of its log.
        """
        if all(node._folder is None for node in self.nodes):
            _start_fresh(self.nodes)
            return
        down = [node for node in self.nodes if not node.running]
        for node in down:
            node.launch()
        for node in down:
            node.wait_ready()

    def stop(self) -> None:
        """Shut all nodes down and remove their data."""
        # A clean shutdown waits for a controller; the last ones of a quorum have none.
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class _Port:
    """A loopback port that the kernel chose and that stays ours until it is released.

    A bound socket that never listens keeps it: on Linux a broker binds and listens beside
    it (both with SO_REUSEADDR, as Java does), and while the broker is down, connecting is
    refused and the kernel gives the port to nobody else.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((_HOST, 0))
        self.number: int = self._socket.getsockname()[1]

    def lend(self) -> None:
        """Let a broker have it, on systems where it cannot bind beside the socket."""
        if sys.platform != "linux":
            self.release()

    def release(self) -> None:
        """Give it back to the kernel."""
        self._socket.close()

    def answers(self) -> bool:
        """Whether somebody listens on it."""
        with socket.socket() as client:
            client.settimeout(1)
            return client.connect_ex((_HOST, self.number)) == 0


_started: weakref.WeakSet[Node] = weakref.WeakSet()


@atexit.register
def _discard_all() -> None:
    for node in list(_started):
        if node._owner_pid == os.getpid():  # a forked child's exit is not the end
            node.stop()


def _start_fresh(nodes: Sequence[Node], form: Callable[[Node, str], None] = Node.format) -> None:
    """Start nodes that have no data yet; again, on other ports, when a port was taken.

    Args:
        nodes: Those of one cluster.
        form: Makes the data of one for a cluster with an id.
    """
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            _make_fresh(nodes, form)
            for node in nodes:
                node.launch()
            for node in nodes:
                node.wait_ready()
        except BaseException:
            again = attempt < _START_ATTEMPTS and any(node._lost_its_port() for node in nodes)
            for node in nodes:
                node.stop()
            if not again:
                raise
        else:
            return


def _make_fresh(nodes: Sequence[Node], form: Callable[[Node, str], None] = Node.format) -> None:
    """Give the nodes of one cluster ports, settings and data."""
    for node in nodes:
        node._prepare()
    cluster_id = _new_id()
    for node in nodes:
        node._write_settings()  # they name the ports of all nodes
        form(node, cluster_id)


def _java(
    main: str, *arguments: str, options: Sequence[str] = (), more_classes: Path | None = None
) -> list[str]:
    own = "" if more_classes is None else f":{more_classes}"
    return [
        str(_newest_java().program),
        *options,
        "-cp",
        f"{fetch_jars()}/*{own}",
        main,
        *arguments,
    ]


def _newest_java() -> Java:
    java = newest_java(_JAVA_VERSIONS)
    if java is None:
        raise RuntimeError(f"Kafka {KAFKA_VERSION} needs {missing_java(_JAVA_VERSIONS)}")
    return java


def _fast_start() -> tuple[str, ...]:
    return _newest_java().cached(prepare())


def _make_start(folder: Path) -> None:
    """Make what :func:`prepare` returns."""
    folder.mkdir()
    node = Node(jvm_fast_start=False, jvm_options=_newest_java().caching(folder))
    try:
        _start_fresh((node,), _format_by_tool)
        shutil.copy(node._data_folder() / "data" / _CHECKPOINT, folder)
        rehearse(node.bootstrap_servers, ("classic",) if _KAFKA_3 else ("classic", "consumer"))
        node.halt(_CACHE_TIMEOUT)
    finally:
        node.stop()


def _format_by_tool(node: Node, cluster_id: str) -> None:
    cluster, settings = f"--cluster-id={cluster_id}", str(node._settings_file())
    done = _run(_java("kafka.tools.StorageTool", "format", cluster, "--config", settings))
    if done.returncode:
        raise RuntimeError(f"Formatting {node} ended with {done.returncode}.\n{done.stdout}")


def _memory() -> Path | None:
    """Return the file system in memory, if there is one with room."""
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _LEAST_MEMORY:
        return None
    return _MEMORY


def _new_id() -> str:
    """Return an id as Kafka writes them."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _write_properties(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))


def _jars_folder() -> Path:
    content = hashlib.sha256(_POM.read_bytes()).hexdigest()[:8]
    return cached(f"kafka-{KAFKA_VERSION}-{content}")


def _copy_dependencies(jars: Path) -> None:
    """Have Maven copy the jars."""
    pom = shutil.copy(_POM, jars.with_name("pom.xml"))
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
    goal.append(f"-Dkafka.version={KAFKA_VERSION}")
    options = ["--batch-mode", "--quiet", "--file", pom, *goal, "-DincludeScope=runtime"]
    maven = _run(["mvn", *options], _FETCH_TIMEOUT)
    if maven.returncode or not (jars / f"kafka_2.13-{KAFKA_VERSION}.jar").is_file():
        raise RuntimeError(
            f"Maven could not fetch Kafka {KAFKA_VERSION} (code {maven.returncode}); is its "
            f"repository reachable?\n{maven.stdout}"
        )


def _run(
    command: Sequence[str | Path], timeout: float = _START_TIMEOUT, lines: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        input=lines,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
