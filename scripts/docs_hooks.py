"""Hooks of the documentation site (mkdocs.yml): pages that stand beside docs/, and links to files that are no page."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "LEADERBOARD.md", "LOG.md", "SECURITY.md")  # their place is the root
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?!https?:|#)[^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages beside docs/."""
    for name in BESIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between docs/ and its root -> links of the site; of those to files that are no page the text is left."""
    return LINK.sub(lambda found: link_on_site(found[1], found[2]), markdown)


def link_on_site(text: str, target: str) -> str:
    """Text and target of a link, from docs/ or from its root -> the link on the site, or the text alone."""
    place, mark, anchor = target.removeprefix("../").removeprefix("docs/").partition("#")
    inside = place in BESIDE or (ROOT / "docs" / place).is_file()
    return f"[{text}]({place}{mark}{anchor})" if inside or not place else text
