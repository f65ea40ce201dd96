"""A real Prometheus for tests: scrapes addresses of this machine, and evaluates alert rules."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.ports import kept_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Prometheus", "missing_programs", "promtool", "quick", "require_prometheus", "rules_in"]

_START = 60.0
_TIMEOUT = 30.0
_EVERY = "250ms"


def missing_programs() -> list[str]:
    """Return which of Prometheus' programs are not on PATH."""
    return [name for name in ("prometheus", "promtool") if shutil.which(name) is None]


def promtool(*arguments: str) -> str:
    """Run promtool; return what it says.

    Raises:
        AssertionError: It found something wrong, with what it said.
    """
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


class Prometheus:
    """One Prometheus, a context manager.

    Args:
        targets: The addresses to scrape, by the label ``instance``.
        rules: Alert rules, as in a file of them.
    """

    def __init__(self, targets: Mapping[str, str], rules: Mapping[str, Any]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
        self._stack = contextlib.ExitStack()
        self._port = self._stack.enter_context(kept_port())
        (self._folder / "rules.yml").write_text(yaml.safe_dump(dict(rules)))
        config = {
            "global": {"scrape_interval": _EVERY, "evaluation_interval": _EVERY},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {
                    "job_name": "web",
                    "static_configs": [
                        {"targets": [address], "labels": {"instance": name}}
                        for name, address in targets.items()
                    ],
                }
            ],
        }
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    def query(self, expression: str) -> list[Mapping[str, Any]]:
        """Return what an expression is now: samples with ``metric`` and ``value``.

        Raises:
            AssertionError: Prometheus does not take the expression, and says why.
        """
        found: list[Mapping[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that fire: the name, and what each is about (the stream or alias)."""
        return {
            _about(alert["labels"])
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def fired(self) -> set[tuple[str, str]]:
        """Return the alerts that fire or did so in the last ten minutes, as ``firing``."""
        found = self.query('max_over_time(ALERTS{alertstate="firing"}[10m])')
        return {_about(sample["metric"]) for sample in found}

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        return data

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self._port}/-/ready"
            with urllib.request.urlopen(url, timeout=_TIMEOUT):
                return True
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        return False

    def __enter__(self) -> Self:
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._is_ready, "Prometheus to be ready", _START, pause=0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(_TIMEOUT)
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _about(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels["alertname"], labels.get("stream") or labels.get("alias", "")


def quick(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return alert rules that fire at once, and compare with seconds ago instead of minutes."""
    text = yaml.safe_dump(dict(rules)).replace("offset 10m", "offset 4s")
    changed: dict[str, Any] = yaml.safe_load(text)
    for group in changed["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    return changed


def rules_in(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the alert rules of a file."""
    for group in yaml.safe_load(path.read_text())["groups"]:
        yield from group["rules"]


def require_prometheus() -> None:
    """Skip the test, or fail it where tools are required, if Prometheus is not installed."""
    missing = missing_programs()
    if not missing:
        return
    reason = f"{' and '.join(missing)} not found on PATH: apt-get install prometheus"
    if os.environ.get("KAFKA_LAYER_REQUIRE_BROKER") == "1":
        pytest.fail(f"{reason} (KAFKA_LAYER_REQUIRE_BROKER=1)", pytrace=False)
    pytest.skip(reason)
