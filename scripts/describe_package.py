"""The README as the package's description on PyPI, where links to files of the repository would lead nowhere.

hatchling calls it when it builds (pyproject.toml). The repository's address is `Source` of project.urls.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


class DescriptionHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text()
        described = make_links_absolute(text, metadata.get("urls", {}).get("Source", ""))
        metadata["readme"] = {"content-type": "text/markdown", "text": described}


def make_links_absolute(text: str, source: str) -> str:
    """README, and the repository's address -> the README with absolute links and pictures; without an address, as long
    as nothing is published, with the words of the links and no pictures."""

    def point(found: re.Match[str]) -> str:
        picture, words, place = found.groups()
        if not source:
            return "" if picture else words
        return f"{picture}[{words}]({source}/{'raw' if picture else 'blob'}/HEAD/{place})"

    return LINK.sub(point, text)
