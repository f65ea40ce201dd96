"""Fixtures that all tests share: a real broker, the embedded one, names nobody else uses."""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import os
import secrets
import sys
from collections.abc import Callable, Generator, Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis.internal.conjecture import engine

from kafka_layer.config import realtime
from kafka_layer.delivery import mailbox, registry, wakeups
from kafka_layer.testing.embedded import EmbeddedBroker
from tests.support import lanes
from tests.support.kafka import STEADY, RealBroker, missing_tools
from tests.support.layers import (
    Backend,
    Layers,
    Servers,
    embedded_backend,
    kafka_backend,
    left_out,
    memory_backend,
)
from tests.support.shared import SharedBroker

if TYPE_CHECKING:
    from tests.support.secure import SecureBroker

TESTS = Path(__file__).parent
ROOT = TESTS.parent

_SHARED = pytest.StashKey[SharedBroker | None]()
# How many modules were loaded when the garbage collector was last told that they stay, and how many
# more are worth telling it: httpx, twisted and the like.
_LOADED = pytest.StashKey[int]()
_MANY = 20

# Where every test needs a real Kafka, a broker in the process, or processes of its own.
_BROKER_PATHS = {
    TESTS / each
    for each in ("cluster", "faults", "security", "e2e", "testing", "docs/test_docs_pages.py")
}
# Where no test waits for anything.
_SHORT = {TESTS / "config", TESTS / "wire"}
_BROKER_FIXTURES = {
    "built_site",
    "embedded",
    "kafka",
    "real_broker_tools",
    "secure",
    "shared_broker",
}
_BROKER_BACKENDS = ("kafka", "embedded")

# pytest-django sets these up for each test, for its database, markers, test cases and servers: half
# of the time of a small test. Those with a database need them; nothing else of that is used here.
_FOR_DJANGO = {
    "_dj_autoclear_mailbox",
    "_django_clear_site_cache",
    "_django_db_marker",
    "_django_isolate_apps",
    "_django_set_urlconf",
    "_django_setup_unittest",
    "_fail_for_invalid_template_variable",
    "_live_server_helper",
    "_template_string_if_invalid_marker",
}

# Enough examples for every change, and in CI the same ones each time. HYPOTHESIS_PROFILE=thorough
# looks for what is rare, and "brief" is for what examples do not tell. No deadline: how long one
# takes says how busy the machine is. Without the phase that explains a failure: it takes minutes.
_ANY = settings(
    deadline=None, phases=[each for each in Phase if each is not Phase.explain], derandomize=False
)
_SAME = settings(_ANY, derandomize=bool(os.environ.get("CI")))
settings.register_profile("brief", _SAME, max_examples=5, stateful_step_count=10)
settings.register_profile("quick", _SAME, max_examples=30, stateful_step_count=20)
settings.register_profile("thorough", _ANY, max_examples=2000, stateful_step_count=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
# Seconds for which a failing example is made smaller.
engine.MAX_SHRINKING_SECONDS = 30


def _parse_again_where_cpython_fails() -> None:
    """Repeat ``ast.parse`` where CPython up to 3.12 raises SystemError (its issue 106905).

    It does so where a second parse begins within the first: formatting a traceback parses, in
    another thread that logs it, or in a finalizer that the garbage collector runs. To be deleted
    with Python 3.11.
    """
    parse = ast.parse

    @functools.wraps(parse)
    def patient(*arguments: Any, **keywords: Any) -> Any:
        for _ in range(9):
            with contextlib.suppress(SystemError):
                return parse(*arguments, **keywords)
        return parse(*arguments, **keywords)

    ast.parse = patient  # type: ignore[assignment]


_parse_again_where_cpython_fails()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import what ``-m "not broker"`` leaves out as a whole."""
    unwanted = config.getoption("markexpr") == "not broker"
    return True if unwanted and collection_path in _BROKER_PATHS else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a broker or processes of its own: ``-m "not broker"`` leaves it out.

    And leave out what pytest-django does for tests that are none of Django's.
    """
    for item in items:
        backend = getattr(item, "callspec", None)
        if (
            _lies_in_broker_path(item.path)
            or item.get_closest_marker("slow")
            or _BROKER_FIXTURES & set(getattr(item, "fixturenames", ()))
            or (backend is not None and any(each in backend.id for each in _BROKER_BACKENDS))
        ):
            item.add_marker("broker")
        if not item.get_closest_marker("django_db"):
            names = getattr(item, "fixturenames", [])
            item.fixturenames = [each for each in names if each not in _FOR_DJANGO]  # type: ignore[attr-defined]
    items.sort(key=_turns(items))


@functools.cache
def _lies_in_broker_path(path: Path) -> bool:
    return not _BROKER_PATHS.isdisjoint((path, *path.parents))


def _turns(items: list[pytest.Item]) -> Callable[[pytest.Item], tuple[object, ...]]:
    """Return the key that orders files for several processes.

    Long lanes come first, and the short files without a broker last, of them those whose tests wait
    for nothing, so that no process works alone for long. The others of one folder are far apart: no
    two browsers, and no two brokers that fail, at once if possible.
    """
    needs_broker: dict[Path, bool] = {}
    for item in items:
        marked = item.get_closest_marker("broker") is not None
        needs_broker[item.path] = needs_broker.get(item.path, False) or marked
    key: dict[Path, tuple[object, ...]] = {}
    for folder in {path.parent for path in needs_broker}:
        inside = [path for path in needs_broker if path.parent == folder]
        for number, path in enumerate(inside):
            turn = lanes.turn_of(str(path.relative_to(ROOT)))
            is_short = folder in _SHORT
            key[path] = not needs_broker[path], turn, is_short, number / len(inside), str(path)
    return lambda item: key[item.path]


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist take the files in their order, not those with the most tests first.

    And where no test needs a broker, leave out what takes the time of several tests.
    """
    config.option.loadscopereorder = False
    if config.getoption("markexpr") == "not broker":
        left_out.update(_BROKER_BACKENDS)
        # The certificates of all authorities, which each client of a schema registry would load:
        # none of these tests leaves this machine.
        os.environ.setdefault("SSL_CERT_DIR", str(TESTS))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, Any, Any]:
    """Let the garbage collector leave the modules and the tests alone: all of them stay.

    And look through what tests make less often than after each 700 objects, which took a tenth of
    their time.
    """
    gc.disable()
    try:
        with _first_alone(session.config):
            return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)
        gc.enable()


@contextlib.contextmanager
def _first_alone(config: pytest.Config) -> Iterator[None]:
    """Have one process of pytest-xdist collect before the others where nothing is compiled yet.

    Each would compile all tests, and have hypothesis look for constants in all of the package:
    twice the time of the collection itself.
    """
    shared = getattr(config, "workerinput", {}).get("shared_broker")
    tag = f"{sys.implementation.cache_tag}-pytest-{pytest.__version__}"
    if shared is None or (TESTS / "__pycache__" / f"test_tiers.{tag}.pyc").exists():
        yield
        return
    collected = Path(shared) / "collected"
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((Path(shared) / "collecting").open("w"))
        flock(lock, LOCK_EX)
        if collected.exists():
            stack.close()
        yield
        collected.touch()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """End with the last test of a lane what only this lane uses.

    And let the garbage collector leave alone what modules this test loaded; so do all later ones.
    """
    yield
    if nextitem is None or lanes.lane_of(nextitem.nodeid) != lanes.lane_of(item.nodeid):
        lanes.end()
    if len(sys.modules) > item.config.stash.get(_LOADED, 0) + _MANY:
        item.config.stash[_LOADED] = len(sys.modules)
        gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let ``--dist loadfile`` go by lanes, most of which are files."""
    return lanes.scheduler(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let the processes of pytest-xdist share one broker."""
    shared = node.config.stash.setdefault(_SHARED, None) or SharedBroker()
    node.config.stash[_SHARED] = shared
    node.workerinput["shared_broker"] = str(shared.folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what the processes shared."""
    shared = config.stash.get(_SHARED, None)
    if shared is not None:
        shared.close()


@pytest.fixture(scope="session")
def shared_broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """The bootstrap servers of the one broker that this test run starts for all tests.

    Its groups notice a dead member within ``SESSION_MS``. Where no broker can be started the test
    is skipped, or fails when ``KAFKA_LAYER_REQUIRE_BROKER=1`` asks for it.
    """
    require_real_broker()
    folder = getattr(request.config, "workerinput", {}).get("shared_broker")
    if folder is not None:
        yield SharedBroker.address(Path(folder))
        return
    with RealBroker(STEADY) as broker:
        yield broker.bootstrap_servers


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> str:
    """The bootstrap servers of a real Kafka.

    ``KAFKA_BOOTSTRAP_SERVERS`` names one that runs; else it is the shared one.
    """
    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    return servers or str(request.getfixturevalue("shared_broker"))


@pytest.fixture(scope="session")
def real_broker_tools() -> None:
    """Skip the test, or fail it, where no real broker can be started for it."""
    require_real_broker()


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedBroker]:
    """An in-process broker: for what no real one is needed to prove."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where certificates are written."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="session")
def secure(real_broker_tools: None, folder: Path) -> Iterator[SecureBroker]:
    """A real Kafka with a listener for each way in, and an authorizer."""
    # Here, because its certificates load what no other test needs.
    from tests.support.secure import SecureBroker

    with SecureBroker(folder) as broker:
        lanes.at_end(broker.stop)
        yield broker


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has channels and their registries believe that so many more seconds have passed."""
    passed: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: realtime.monotonic() + sum(passed))
    for module in (mailbox, registry, wakeups):
        monkeypatch.setattr(module, "time", clock)
    return passed.append


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test uses, on a broker that all tests share."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def backend(kafka: str) -> Backend:
    """What ``make_layer`` makes layers on: a real Kafka, unless a folder says otherwise."""
    return kafka_backend(kafka)


@pytest.fixture(scope="module")
def in_memory() -> Backend:
    """The backend "memory" of a file."""
    return memory_backend()


@pytest.fixture(scope="module")
def in_embedded(embedded: EmbeddedBroker) -> Backend:
    """The backend "embedded" of a file, whose topics are made once."""
    return embedded_backend(embedded)


@pytest.fixture(scope="module")
def in_kafka(kafka: str) -> Backend:
    """The backend "kafka" of a file, whose topics are made once."""
    return kafka_backend(kafka)


@pytest.fixture
def make_layer(backend: Backend) -> Iterator[Layers]:
    """Makes layers, each a server of its own on the same topics; closes them at the end."""
    layers = Layers(backend)
    yield layers
    layers.close()


@pytest.fixture(scope="module")
def servers(backend: Backend) -> Iterator[Servers]:
    """Three layers on topics of their own, which run on from test to test of a file.

    For tests that need no new ones: starts take as long as most tests do. What a test sends has to
    have arrived at its end, or to be for names that no other test uses.
    """
    layers = Layers(backend)
    prefix = f"test-servers-{secrets.token_hex(4)}"
    yield [layers(prefix) for _ in range(3)]
    layers.close()


def require_real_broker() -> None:
    """Skip or fail, whichever ``KAFKA_LAYER_REQUIRE_BROKER`` says, where java or mvn is missing."""
    missing = missing_tools()
    if not missing:
        return
    reason = (
        f"A real Kafka needs {' and '.join(missing)}: install it, or set KAFKA_BOOTSTRAP_SERVERS "
        "to a running broker"
    )
    if os.environ.get("KAFKA_LAYER_REQUIRE_BROKER") == "1":
        pytest.fail(f"{reason} (KAFKA_LAYER_REQUIRE_BROKER=1)", pytrace=False)
    pytest.skip(reason)
