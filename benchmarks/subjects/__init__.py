"""The subjects of the benchmarks, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Mapping

from ..subject import Subject
from .jobs import beside, jobs
from .memberships import commands, members, membership
from .messages import fanout, groups, latency, scale, settings, throughput
from .processes import calls, footprint, startup, synchronous
from .recovery import recovery
from .sockets import sockets
from .streams import streams

DOCUMENTED: Mapping[str, Subject] = {
    each.name: each
    for each in (
        *(latency, groups, throughput, fanout, members, synchronous, membership, jobs, beside),
        *(startup, footprint, scale, sockets, settings),
    )
}
"""By name: those of docs/performance.md, which compares layers."""

_FURTHER = (calls, commands, recovery, streams)
SUBJECTS: Mapping[str, Subject] = {**DOCUMENTED, **{each.name: each for each in _FURTHER}}
"""All of them, by name."""

PAIRED = (
    *(latency, calls, throughput, fanout, groups, members, synchronous, membership, commands),
    *(startup, footprint, scale, sockets, jobs, beside),
)
"""What two versions of the layer are compared by; at the end what takes long on a busy machine."""
