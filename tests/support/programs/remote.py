"""A layer in a process of its own: reads calls from standard input, a JSON array a line.

``["group_add", ["room", "…"], {}]`` is answered with ``{"result": …}`` or ``{"error": "…"}``.
The first argument is the layer's CONFIG, as JSON. Its spans go to ``OTEL_EXPORTER_OTLP_ENDPOINT``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from tests.support.patience import PatientLayer


def export_spans() -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


async def main() -> None:
    layer = PatientLayer(**json.loads(sys.argv[1]))
    names: list[str] = []  # of the channels: they live as long as somebody holds their names
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        method, arguments, keywords = json.loads(line)
        answer: dict[str, Any]
        try:
            result = await getattr(layer, method)(*arguments, **keywords)
            if method == "new_channel":
                names.append(result)
            answer = {"result": result}
        except Exception as error:
            answer = {"error": repr(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await layer.close()


if __name__ == "__main__":
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
        export_spans()
    asyncio.run(main())
