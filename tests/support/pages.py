"""What the pages of the documentation hold for a test to build."""

from __future__ import annotations

import re

__all__ = ["files_of"]


def files_of(text: str) -> dict[str, str]:
    """Return the fenced blocks of a page that have a title: names of files to what is in them.

    Args:
        text: The page, in Markdown.
    """
    blocks = re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return dict(blocks)
