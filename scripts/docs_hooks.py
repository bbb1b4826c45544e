"""Hooks of the documentation site (mkdocs.yml): pages beside docs/, notebooks, links to files that are no page."""

import os
import posixpath
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "LEADERBOARD.md", "LOG.md", "SECURITY.md")  # their place is the root
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?!https?:|#)[^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages beside docs/, and the notebooks with what they print and draw now."""
    for name in BESIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for path in sorted(DOCS.glob("notebooks/*.ipynb")):
        text, pictures = run_notebook(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def run_notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Notebook -> its page as Markdown, and its pictures by name. It runs in an empty folder, with an empty cache.

    Errors: nbclient's, with the cell and its traceback, for a cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "work").mkdir()
        commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": commands, "RALES_CACHE": f"{folder}/cache"}
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            coalesce_streams=True,  # else a line that came in two parts is two lines
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": f"{folder}/work"}},
        )
        client.execute(env=env)
    names = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    text, found = MarkdownExporter().from_notebook_node(notebook, resources=names)
    title, _, rest = text.partition("\n")
    download = f'<a href="{path.name}" download>This page is a notebook: download it.</a>'
    return f"{title}\n\n{download}\n{rest}", found["outputs"]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between docs/ and its root -> links of the site; of those to files that are no page the text is left."""
    return LINK.sub(lambda found: link_on_site(found[1], found[2], page.file.src_uri), markdown)


def link_on_site(text: str, target: str, page: str) -> str:
    """Text and target of a link, and the page that it is on -> the link on the site, or the text alone."""
    place, mark, anchor = target.partition("#")
    file = ((ROOT if page in BESIDE else (DOCS / page).parent) / place).resolve()
    if file.parent == ROOT and file.name in BESIDE:
        there = file.name
    elif file.is_relative_to(DOCS) and file.is_file():
        there = file.relative_to(DOCS).as_posix().replace(".ipynb", ".md")
    else:
        return text
    return f"[{text}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{mark}{anchor})"
