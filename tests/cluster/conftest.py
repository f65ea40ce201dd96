"""Fixtures of the scale-out tests: two and three servers, and servers in processes of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.cluster.cluster import Cluster
from tests.support.layers import Layers, Servers
from tests.support.processes import RemoteLayer

MakeRemote = Callable[[], Awaitable[RemoteLayer]]


@pytest.fixture(params=[2, 3], ids=["two-servers", "three-servers"])
def cluster(request: pytest.FixtureRequest, servers: Servers) -> Cluster:
    """Two servers, and in a second run three; they run on from test to test of a file."""
    return Cluster(servers[: request.param])


@pytest_asyncio.fixture
async def make_remote(make_layer: Layers) -> AsyncIterator[MakeRemote]:
    """Starts servers in other processes, on the topics of ``make_layer``; ends them at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def make() -> RemoteLayer:
            config = {**make_layer.backend.config, "prefix": make_layer.prefix}
            remote = await stack.enter_async_context(RemoteLayer(**config))
            stack.push_async_callback(_end, remote)
            return remote

        yield make


async def _end(remote: RemoteLayer) -> None:
    # Not politely: it may be frozen. A test may have killed it already.
    with contextlib.suppress(ProcessLookupError):
        await remote.kill()
