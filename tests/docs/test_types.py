"""Every Python block of the docs and the README type-checks: mypy, strict, with Channels' stubs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import kafka_layer

REPOSITORY = Path(kafka_layer.__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("docs/*.md"), REPOSITORY / "README.md"])

pytestmark = pytest.mark.slow

_BLOCK = re.compile(r'^```python(?: title="([^"]+)")?\n(.*?)^```$', re.S | re.M)

# What the pages take for granted: names that the reader's own program has.
_KNOWN = """
__all__ = [
    "Any",
    "AsyncConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncUserConsumerMixin",
    "CHANNEL_LAYERS",
    "ChannelNameRouter",
    "KafkaChannelLayer",
    "ProtocolTypeRouter",
    "SECRET",
    "channel",
    "channel_of_another_process",
    "first_channel",
    "kafka_layer",
    "layer",
    "logger",
    "logging",
    "metrics",
    "order",
    "os",
    "producer",
    "second_channel",
]

import logging
import os
from typing import Any

from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter

import kafka_layer
from kafka_layer.consumers import AsyncUserConsumerMixin
from kafka_layer.layer import KafkaChannelLayer

logger = logging.getLogger(__name__)
layer: KafkaChannelLayer = kafka_layer.get_layer()
channel: str
channel_of_another_process: str
first_channel: str
second_channel: str
order: Any
metrics: Any
producer: Any
SECRET: str
CHANNEL_LAYERS: dict[str, Any]
"""

# A page of which the checker must say what is wrong.
_WRONG = """
```python
await layer.group_send('room', {}, exlude=[])
```
```python
class A(AsyncUserConsumerMixin, AsyncJsonWebsocketConsumer):
    async def connect(self):
        pass
```
"""

# types-channels has no words for an ASGI application in a path().
_OF_THE_STUBS = re.compile(r'_ExtendedURLPattern|_ASGIApplicationProtocol|"URLRouter"')

# What mypy says where a page shows a package that is not installed for the tests, or has no types.
_OTHERS = re.compile(
    r"^(?:from|import) (?:apscheduler|aws_msk_iam_sasl_signer|celery|dramatiq|huey)\b", re.M
)
_OF_OTHERS = re.compile(r"\[(?:import-not-found|import-untyped|misc|untyped-decorator)\]")


def module(code: str) -> str:
    """Return a block as a module: entries of a dict in a dict, what awaits in a function."""
    if code.startswith('"') and code.rstrip().endswith((",", "}")):
        return f"_SETTINGS: dict[str, object] = {{\n{code}\n}}\n"
    if "await " in code and not re.search(r"^(async def|class) ", code, re.M):
        return f"async def _block() -> None:\n{textwrap.indent(code, '    ')}"
    return code


def modules_of(page: Path) -> dict[str, str]:
    """Return the blocks of a page as modules, by file name; each name begins with the page's."""
    prefix = page.stem.replace("-", "_")
    blocks = _BLOCK.findall(page.read_text())
    titles = "|".join(title.removesuffix(".py") for title, _ in blocks if title)
    found = {}
    for number, (title, code) in enumerate(blocks):
        if title:
            imports = rf"^( *(?:from|import) )(?=(?:{titles})\b)"
            found[f"{prefix}_{title}"] = re.sub(imports, rf"\1{prefix}_", code, flags=re.M)
        else:
            found[f"{prefix}_{number}.py"] = f"from _known import *\n\n{module(code)}"
    return found


def errors(modules: dict[str, str], folder: Path) -> list[str]:
    """Return what mypy says about modules that are written into a folder."""
    for name, code in {**modules, "_known.py": _KNOWN}.items():
        (folder / name).write_text(code)
    cache = REPOSITORY / ".mypy_cache"
    # Where the package was not checked before, no function of it is now: that takes half the time.
    unknown = ("--follow-imports", "silent", "--cache-dir", os.devnull)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty"),
            # As the package is checked, whose modules it then finds in the cache.
            *("--config-file", str(REPOSITORY / "pyproject.toml")),
            *(("--cache-dir", str(cache)) if cache.exists() else unknown),
            *modules,
        ],
        cwd=folder,
        env={"MYPYPATH": f"{folder}:{REPOSITORY}", "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    lines = (done.stdout + done.stderr).splitlines()
    with_others = {name for name, code in modules.items() if _OTHERS.search(code)}
    return [
        each
        for each in lines
        if ": error: " in each
        and not _OF_THE_STUBS.search(each)
        and not (each.partition(":")[0] in with_others and _OF_OTHERS.search(each))
    ] + done.stderr.splitlines()


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says, in one run, of all pages and of one that is wrong on purpose."""
    folder = tmp_path_factory.mktemp("blocks")
    wrong = folder / "wrong.md"
    wrong.write_text(_WRONG)
    modules: dict[str, str] = {}
    for page in [*PAGES, wrong]:
        blocks = modules_of(page)
        assert not modules.keys() & blocks.keys(), page
        modules |= blocks
    return errors(modules, folder)


def test_the_python_blocks_of_the_pages_are_right(said: list[str]) -> None:
    assert [each for each in said if not each.startswith("wrong_")] == []


def test_the_checker_finds_what_is_wrong(said: list[str]) -> None:
    wrong = "\n".join(said)
    assert 'wrong_0.py:4: error: Unexpected keyword argument "exlude"' in wrong
    assert "wrong_1.py:4: error: Function is missing a return type annotation" in wrong
