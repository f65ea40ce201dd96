"""Files that follow a published schema."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["require_schema"]


def require_schema(schema: str, file: Path) -> None:
    """Fail unless a file follows one of the schemas that check-jsonschema brings along."""
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
