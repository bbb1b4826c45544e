"""The README as the package's description on PyPI, where links to files of the repository would lead nowhere.

hatchling calls it when it builds (pyproject.toml). The repository's address is `Source` of project.urls.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = r"\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)"
PICTURE = f"!{LINK}"


class DescriptionHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        described = make_links_absolute(text, metadata.get("urls", {}).get("Source", ""))
        metadata["readme"] = {"content-type": "text/markdown", "text": described}


def make_links_absolute(text: str, source: str) -> str:
    """README, and the repository's address -> the README with absolute links and pictures; without an address, as long
    as nothing is published, without pictures, and with the words of links that do not stand alone in a sentence or in
    brackets."""
    if not source:
        text = re.sub(rf"(?m)^{PICTURE}\n\n|(?<=\.)\s{LINK}\.|\s\({LINK}\)", "", text)
        return re.sub(LINK, r"\1", text)
    text = re.sub(PICTURE, rf"![\1]({source}/raw/HEAD/\2)", text)
    return re.sub(LINK, rf"[\1]({source}/blob/HEAD/\2)", text)
