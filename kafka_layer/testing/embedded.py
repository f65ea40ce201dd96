"""An in-process broker for demos and quick tests: librdkafka's own mock cluster."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, cimpl

from ..config.settings import LayerConfig
from ..config.threads import Lock, new_event, new_thread
from ..kafka.errors import kafka_error
from ..wire.topics import Topic, WorkTopic, topic_name

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EmbeddedBroker"]

_PRODUCER: Final = 0  # rd_kafka_type_t
_CONTROLLER_ID: Final = 1  # the mock numbers its brokers from 1
_ERROR_BYTES: Final = 512
_HEARTBEAT_MS: Final = 500  # within it a new group member gets its share
_OVERSLEPT_SECONDS: Final = 0.01
_TOPIC_NAME: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")

# function: (result, arguments)
_PROTOTYPES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "rd_kafka_version_str": (ctypes.c_char_p, []),
    "rd_kafka_conf_new": (ctypes.c_void_p, []),
    "rd_kafka_conf_set": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "rd_kafka_conf_destroy": (None, [ctypes.c_void_p]),
    "rd_kafka_new": (
        ctypes.c_void_p,
        [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t],
    ),
    "rd_kafka_destroy": (None, [ctypes.c_void_p]),
    "rd_kafka_mock_cluster_new": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [ctypes.c_void_p]),
    "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, [ctypes.c_void_p]),
    "rd_kafka_mock_set_controller_id": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (
        None,
        [ctypes.c_void_p, ctypes.c_int32],
    ),
    "rd_kafka_mock_set_group_consumer_heartbeat_interval_ms": (
        None,
        [ctypes.c_void_p, ctypes.c_int],
    ),
    "rd_kafka_mock_topic_create": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
    ),
}


class EmbeddedBroker:
    """A Kafka broker inside this process, for demos and quick tests; it proves nothing about Kafka.

    It is the mock cluster of the librdkafka that confluent_kafka itself loads: a native
    thread with one loopback listener a broker, on ports that the kernel chooses. Clients
    of this process and of others can connect. It starts in milliseconds.

    It serves producers (idempotent and transactional ones too), fetches, offsets, topic
    metadata and consumer groups. What differs from a real broker (librdkafka 2.16):

    - Few admin requests: CreateTopics, CreatePartitions, DeleteTopics, DescribeConfigs and
      DeleteRecords fail at once with ``_UNSUPPORTED_FEATURE``. Use ``create_topic``. The broker
      creates a topic that a producer asks for, with 4 partitions.
    - No topic configs: nothing expires, and records keep their CreateTime.
      A delivery report nevertheless carries the timestamp type LogAppendTime with the
      constant 1234: do not take a clock from it. There are no offsets by timestamp
      (``offsets_for_times`` knows the start and the end only).
    - A partition keeps its newest 5 MiB or 100,000 batches, in memory. There is no limit for
      a record. The broker acknowledges one that does not fit into the 5 MiB together with the
      record before it, and nobody can read it.
    - An empty fetch waits the whole ``fetch.wait.max.ms``, even when a record comes: use
      ``client_settings``.
    - In a classic consumer group only the first member gets partitions; a second one waits
      (25 s and more). With ``group.protocol=consumer`` members share them.
    - No TLS, no SASL, no ACLs; nothing survives ``stop``.

    All methods may be called from any thread. After a fork the broker stays the parent's:
    in the child ``bootstrap_servers`` still returns its address, ``stop`` does nothing, and
    the other methods raise. (A forked child also inherits the listening sockets: while it
    lives, connections to a stopped broker hang instead of being refused.) The broker ends
    with the process.

    Args:
        brokers: How many brokers the cluster has, numbered from 1.

    Raises:
        ValueError: There is not at least one broker.
    """

    def __init__(self, brokers: int = 1) -> None:
        if brokers < 1:
            raise ValueError(f"brokers={brokers}: an embedded cluster needs at least 1 broker")
        self._brokers = brokers
        self._owner_pid = os.getpid()
        self._lock = Lock()  # guards _cluster, also from being freed while in use
        self._cluster: _Cluster | None = None

    def start(self) -> None:
        """Start listening; do nothing if it listens already.

        Raises:
            RuntimeError: librdkafka cannot be found or refuses, or this is a forked child.
        """
        self._check_owner()
        with self._lock:
            if self._cluster is None:
                self._cluster = _Cluster(_load_librdkafka(), self._brokers)

    def stop(self) -> None:
        """Close all connections and forget all topics; do nothing if it is stopped.

        It can start again: empty, and on other ports.
        """
        if os.getpid() != self._owner_pid:
            return  # the handles and the lock are copies of the parent's
        with self._lock:
            cluster, self._cluster = self._cluster, None
            if cluster is not None:
                cluster.destroy()

    def create_topic(self, name: str, partitions: int, replication_factor: int = 1) -> None:
        """Create a topic, in place of the admin request that this broker does not have.

        Args:
            name: The topic's name.
            partitions: How many partitions it gets.
            replication_factor: How many brokers each partition is on; -1 means 1.

        Raises:
            ValueError: Kafka would not take such a topic.
            confluent_kafka.KafkaException: The topic exists (``TOPIC_ALREADY_EXISTS``).
            RuntimeError: The broker is not running, or this is a forked child.
        """
        self._check_owner()
        replicas = 1 if replication_factor == -1 else replication_factor
        self._check_topic(name, partitions, replicas)
        with self._lock:
            if self._cluster is None:
                raise _not_running()
            self._cluster.create_topic(name, partitions, replicas)

    def config(self, **keywords: Any) -> dict[str, Any]:
        """Create the topics of a channel layer, and return the ``CONFIG`` that it needs here.

        Existing topics stay as they are. It creates topics only of those worker channels that
        ``worker_channels`` names in full.

        Args:
            keywords: Further keywords of that ``CONFIG``, such as ``prefix``.

        Raises:
            ImproperlyConfigured: For an unknown keyword or a value that cannot work.
            RuntimeError: The broker is not running, or this is a forked child.
        """
        config = {"bootstrap_servers": self.bootstrap_servers, **self.client_settings, **keywords}
        layer = LayerConfig.from_keywords(**config)
        for topic in (*Topic, *map(WorkTopic, layer.named_worker_channels)):
            try:
                self.create_topic(
                    topic_name(layer.prefix, topic), layer.topic_settings(topic).partitions
                )
            except KafkaException as exception:
                if kafka_error(exception).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        return config

    @property
    def bootstrap_servers(self) -> str:
        """Its addresses: ``host:port``, separated by commas.

        Raises:
            RuntimeError: The broker is not running.
        """
        cluster = self._cluster
        if cluster is None:
            raise _not_running()
        return cluster.bootstrap_servers

    @property
    def client_settings(self) -> dict[str, Any]:
        """The ``CONFIG`` keywords that a channel layer on this broker should have.

        A new dict each time, without ``bootstrap_servers``. The short wait costs an idle consumer
        about 3 % of a core.
        """
        return {
            "auto_create_topics": False,
            "worker_group_protocol": "consumer",
            "consumer_config": {"fetch.wait.max.ms": 5},
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _check_owner(self) -> None:
        if os.getpid() != self._owner_pid:
            raise RuntimeError(
                f"This embedded broker belongs to process {self._owner_pid}, from which this "
                "one was forked: call its methods there, or make a new EmbeddedBroker here"
            )

    def _check_topic(self, name: str, partitions: int, replicas: int) -> None:
        # For bad values librdkafka aborts the process or makes a broken topic.
        if name in (".", "..") or not _TOPIC_NAME.fullmatch(name):
            raise ValueError(
                f"Topic name {name!r}: use 1 to 249 ASCII letters, digits, '.', '_' and '-'"
            )
        if partitions < 1:
            raise ValueError(f"partitions={partitions}: topic {name!r} needs at least 1")
        if not 1 <= replicas <= self._brokers:
            raise ValueError(
                f"replication_factor={replicas}: topic {name!r} can have 1 to "
                f"{self._brokers}, the number of brokers"
            )


def _not_running() -> RuntimeError:
    return RuntimeError("The embedded broker is not running: call start() first")


class _Cluster:
    """The native mock cluster: not thread-safe, and unusable after ``destroy``."""

    def __init__(self, library: ctypes.CDLL, brokers: int) -> None:
        self._library = library
        self._client = _new_client(library)
        self._handle: int | None = library.rd_kafka_mock_cluster_new(self._client, brokers)
        if self._handle is None:
            library.rd_kafka_destroy(self._client)
            raise RuntimeError(
                f"librdkafka could not start {brokers} mock broker(s): see its messages on "
                "stderr, and check that loopback ports and file descriptors are free"
            )
        servers: bytes = library.rd_kafka_mock_cluster_bootstraps(self._handle)
        self.bootstrap_servers = servers.decode("ascii")
        # Without a controller every admin request waits for one until it times out.
        self._call("rd_kafka_mock_set_controller_id", _CONTROLLER_ID)
        self._call("rd_kafka_mock_group_initial_rebalance_delay_ms", 0)
        self._call("rd_kafka_mock_set_group_consumer_heartbeat_interval_ms", _HEARTBEAT_MS)

    def create_topic(self, name: str, partitions: int, replicas: int) -> None:
        code = self._call("rd_kafka_mock_topic_create", name.encode("ascii"), partitions, replicas)
        if code:
            raise KafkaException(KafkaError(code, f"Topic {name!r}: {KafkaError(code).str()}"))

    def destroy(self) -> None:
        self._call("rd_kafka_mock_cluster_destroy")
        self._library.rd_kafka_destroy(self._client)

    def _call(self, function: str, *arguments: object) -> Any:
        """Run an operation on the mock's thread, and keep that awake meanwhile.

        The mock can lose the wake-up of an operation that follows closely on another one,
        and then sleeps for up to a second. Any traffic wakes it, too.
        """
        done = new_event()
        waker = new_thread(target=self._knock_until, args=(done,), name="kafka-embedded-waker")
        with contextlib.suppress(RuntimeError):  # at exit no thread can start: the call may wait
            waker.start()
        try:
            return getattr(self._library, function)(self._handle, *arguments)
        finally:
            done.set()

    def _knock_until(self, done: threading.Event) -> None:
        host, port = self.bootstrap_servers.split(",")[0].rsplit(":", 1)
        while not done.wait(_OVERSLEPT_SECONDS):
            with contextlib.suppress(OSError):  # it closes, so it is awake
                socket.create_connection((host, int(port)), timeout=1).close()


def _new_client(library: ctypes.CDLL) -> int:
    """Create the client instance that a mock cluster needs for its book-keeping.

    It has no servers and opens no connection.
    """
    reason = ctypes.create_string_buffer(_ERROR_BYTES)
    conf = library.rd_kafka_conf_new()
    # Errors only: at the default level it warns that bootstrap.servers is missing.
    library.rd_kafka_conf_set(conf, b"log_level", b"3", reason, _ERROR_BYTES)
    client: int | None = library.rd_kafka_new(_PRODUCER, conf, reason, _ERROR_BYTES)
    if client is None:
        library.rd_kafka_conf_destroy(conf)  # rd_kafka_new owns it only after a success
        raise RuntimeError(f"librdkafka refused a client: {reason.value.decode(errors='replace')}")
    return client


def _load_librdkafka() -> ctypes.CDLL:
    """Return the librdkafka that confluent_kafka has loaded, with its functions declared.

    Raises:
        RuntimeError: None of the places has it, or another version of it.
    """
    tried: list[str] = []
    for path in _library_paths():
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, arguments) in _PROTOTYPES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            tried.append(f"{path} ({error})")
            continue
        found = library.rd_kafka_version_str().decode()
        if found == confluent_kafka.libversion()[0]:
            return library
        tried.append(f"{path} (version {found})")
    raise RuntimeError(
        f"The embedded broker needs librdkafka {confluent_kafka.libversion()[0]} with its mock "
        "cluster, as the binary wheels of confluent-kafka carry it: reinstall with `pip install "
        "--force-reinstall --only-binary confluent-kafka confluent-kafka`, or use a real "
        f"broker. Tried: {'; '.join(tried)}"
    )


def _library_paths() -> Iterator[Path]:
    """Yield files through which librdkafka's functions may be reached, the surest first.

    A symbol look-up in the extension module also searches the libraries that it is linked
    with: on Linux and macOS that finds the very library that is in use. The other files are
    for platforms where it does not.
    """
    yield Path(cimpl.__file__)
    package = Path(confluent_kafka.__file__).parent
    for folder in (package.with_name("confluent_kafka.libs"), package / ".dylibs", package):
        yield from sorted(folder.glob("librdkafka*"))
    yield from _mapped_libraries(Path("/proc/self/maps"))


def _mapped_libraries(maps: Path) -> Iterator[Path]:
    """Yield the librdkafka files that are mapped into this process (Linux)."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return
    names = {line.split(maxsplit=5)[-1] for line in lines if "librdkafka" in line}
    yield from sorted(Path(name) for name in names)
