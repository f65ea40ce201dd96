"""What the processes of pytest-xdist run one after another, and what they begin with.

A lane is what one process runs: a file, with ``--dist loadfile``, or one of these. Long lanes come
first, so that no process works alone for long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

__all__ = ["at_end", "end", "lane_of", "scheduler", "turn_of"]

# Files that share what takes long to start, in their order: a demo, a browser, or a broker of a
# kind. No event loop can run in a process that has a browser.
_SHARED: Mapping[str, tuple[str, ...]] = {
    "demo": (
        "tests/e2e/test_features.py",
        "tests/e2e/test_chat.py",
        "tests/e2e/test_browser.py",
        "tests/e2e/test_board.py",
        "tests/e2e/test_dashboard.py",
        "tests/e2e/test_failures.py",
        "tests/e2e/test_looks.py",
    ),
    "pages": (
        "tests/e2e/test_recovery.py",
        "tests/e2e/test_kafka_away.py",
        "tests/e2e/test_socket.py",
        "tests/docs/test_docs_pages.py",
        "tests/e2e/test_streams_tutorial.py",
    ),
    "secure": ("tests/security/*", "tests/django/test_setup_topics.py"),
    "faults": (
        "tests/faults/test_outages.py",
        "tests/faults/test_topics_made_anew.py",
        "tests/faults/test_network.py",
        "tests/faults/test_moved_log.py",
        "tests/faults/test_silence.py",
        "tests/faults/test_ends.py",
        "tests/faults/test_bad_records.py",
        "tests/faults/test_workers.py",
        "tests/faults/test_overload.py",
        "tests/faults/test_recovery.py",
        "tests/faults/test_streams.py",
    ),
}

# Files so long that each of their classes is a lane.
_DIVIDED = ("tests/cluster/workers/test_runworker.py", "tests/cluster/workers/test_sharing.py")

# Those that take longest. What keeps the processors busy stands beside what waits.
_FIRST = (
    "demo",
    "faults",
    "tests/cluster/workers/test_sharing.py",
    "tests/cluster/test_ending.py",
    "secure",
    "tests/cluster/workers/test_blocked_loops.py",
    "tests/cluster/workers/test_runworker.py",
    "tests/cluster/workers/test_errors.py",
    "tests/faults/test_three_brokers.py",
    "tests/e2e/test_demo.py",
    "tests/testing/test_support_kafka.py",
    "pages",
    "tests/docs/test_types.py",
    "tests/docs/test_quickstart.py",
)


# What ends with the present lane, once each.
_endings: dict[Callable[[], object], None] = {}


def at_end(call: Callable[[], object]) -> None:
    """Have something that idles for the rest of the run end with the last test of this lane.

    Args:
        call: Ends it; called once for a lane, however often it was given here.
    """
    _endings[call] = None


def end() -> None:
    """End what the lane's tests asked for, the last first."""
    while _endings:
        call, _ = _endings.popitem()
        call()


def lane_of(nodeid: str) -> str:
    """Return the lane of a test."""
    path, _, inside = nodeid.partition("::")
    if path in _DIVIDED and "::" in inside:
        return f"{path}::{inside.partition('::')[0]}"
    return _lane_of_file(path)


@cache
def _lane_of_file(path: str) -> str:
    for name, patterns in _SHARED.items():
        if any(fnmatch(path, pattern) for pattern in patterns):
            return name
    return path


def turn_of(path: str) -> tuple[int, int]:
    """Return the place of a file's lane, lower for those that come first, and its place there."""
    lane = _lane_of_file(path)
    turn = _FIRST.index(lane) if lane in _FIRST else len(_FIRST)
    inside = [fnmatch(path, pattern) for pattern in _SHARED.get(lane, (path,))]
    return turn, inside.index(True)


def scheduler(config: Any, log: Any) -> LoadScopeScheduling:
    """Return what hands the lanes out to the processes."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return lane_of(nodeid)

    return Lanes(config, log)
