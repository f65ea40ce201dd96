"""The subjects of the benchmarks, one a module, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Mapping

from ..subject import Subject
from . import (
    beside,
    fanout,
    footprint,
    groups,
    jobs,
    latency,
    members,
    membership,
    scale,
    settings,
    sockets,
    startup,
    synchronous,
    throughput,
)

__all__ = ["SUBJECTS"]

_MODULES = (
    latency,
    groups,
    throughput,
    fanout,
    members,
    synchronous,
    membership,
    jobs,
    beside,
    startup,
    footprint,
    scale,
    sockets,
    settings,
)

SUBJECTS: Mapping[str, Subject] = {module.SUBJECT.name: module.SUBJECT for module in _MODULES}
"""By name."""
