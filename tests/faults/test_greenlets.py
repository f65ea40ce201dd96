"""gevent: the layer's threads stay native ones, and greenlets that wait for it let others run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kafka_layer.testing.embedded import EmbeddedBroker
from tests.faults.traffic import figure

pytest.importorskip("gevent")

REPOSITORY = Path(__file__).parents[2]
NO_BROKER = "127.0.0.1:1"
# Seconds without a turn for other greenlets. It was 1 s of each 2 s, or for ever; once it may be
# more on a machine that runs other tests.
GAP = 0.5
LONGEST_GAP = 0.9


def run(servers: str, prefix: str, scenario: str, order: str) -> dict[str, Any]:
    """Run a scenario of ``tests/support/programs/greenlets.py``; returns what came out."""
    program = [sys.executable, "-m", "tests.support.programs.greenlets"]
    done = subprocess.run(
        [*program, servers, prefix, scenario, order],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    gap, longest = result.pop("gaps")
    figure(f"gevent, {scenario}: no turn for other greenlets for {longest:.3f} s, then {gap:.3f} s")
    assert gap < GAP
    assert longest < LONGEST_GAP
    return result


# gunicorn's --preload imports the application before it replaces the threads.
@pytest.mark.parametrize("order", ["patch_first", "import_first"])
def test_greenlets_send_receive_and_ask_while_others_run(
    embedded: EmbeddedBroker, prefix: str, order: str
) -> None:
    servers = embedded.config(prefix=prefix)["bootstrap_servers"]
    result = run(servers, prefix, "receives", order)
    assert result == {
        "trips": 3,
        "received": [0, 1, 2],
        "servers": 2,
        "positions": 50,
        "ends": ["ok"] * 3,
    }


def test_greenlets_run_while_others_wait_for_a_broker_that_is_away(prefix: str) -> None:
    result = run(NO_BROKER, prefix, "no_broker", "patch_first")
    assert result.pop("sent") > 20
    assert result == {
        "awaited": "ProduceFailed",
        "asked": "BrokerUnavailable",
        "ends": ["ok"] * 2,
    }
