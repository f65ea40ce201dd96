"""A layer in a process of its own: reads calls from standard input, a JSON array a line.

``["group_add", ["room", "…"], {}]`` is answered with ``{"result": …}`` or ``{"error": "…"}``.
The first argument is the layer's CONFIG, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.support.patience import PatientLayer


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
    asyncio.run(main())
