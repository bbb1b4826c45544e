"""Render sections of text, tables and plots as one HTML page and one Markdown page of the same content."""

import base64
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

DISCLAIMER = "Research tool; not a diagnosis."


class Table(NamedTuple):
    """Cells as they are shown; a line break in a cell is kept in HTML."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    marked: frozenset[int] = frozenset()
    """Rows to emphasise."""
    note: str = ""

    def is_figures(self, column: int) -> bool:
        """Whether a column holds numbers (or – for a missing one) and nothing else."""
        cells = [row[column] for row in self.rows if row[column] != "–"]
        return bool(cells) and all(re.match(r"[-−+(\[]*\d", cell) for cell in cells)


class Picture(NamedTuple):
    """A PNG, the text that stands for it, and what to read from it."""

    file: str
    alt: str
    caption: str
    png: bytes

    @property
    def width(self) -> int:
        """Width on the page: a third more pixels than CSS counts, so that a sharp screen has something to show."""
        return int.from_bytes(self.png[16:20], "big") * 3 // 4


class Text(NamedTuple):
    """A paragraph; `warning` makes it stand out."""

    text: str
    warning: bool = False


class Heading(NamedTuple):
    """A heading within a section."""

    text: str


class Glance(NamedTuple):
    """What a reader takes away who reads nothing else: one figure on a scale of 0 to 100, and the verdict on it."""

    title: str
    score: float
    """Percent."""
    low: float
    """Ends of its 95 % interval, NaN without one."""
    high: float
    verdict: str
    text: str
    references: tuple[tuple[float, str], ...]
    """Figures that it stands beside, and what they are."""

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def interval(self) -> str:
        return f"95 % interval {self.low:.1f} to {self.high:.1f}" if self.has_interval else "no interval"


class Clip(NamedTuple):
    """How one cycle looks and sounds."""

    png: bytes
    flac: bytes


class Gallery(NamedTuple):
    """A table of cycles; a row has its picture and sound where they are at hand. Of Markdown the table alone."""

    table: Table
    clips: Sequence[Clip | None]


class Items(NamedTuple):
    """A list of (label, text); `code` sets the text as typed at a terminal."""

    items: list[tuple[str, str]]
    code: bool = False


Block = Table | Picture | Text | Heading | Items | Glance | Gallery


class Section(NamedTuple):
    """A part of the page with its own entry in the contents."""

    anchor: str
    title: str
    blocks: Sequence[Block]


def number_section(section: Section, number: int) -> Section:
    """Section of a report's label set -> the same; of a later set its anchor and files are not those of the first."""
    if number == 1:
        return section
    blocks = [
        block._replace(file=f"set{number}-{block.file}") if isinstance(block, Picture) else block
        for block in section.blocks
    ]
    return Section(f"{section.anchor}-{number}", f"{section.title} ({number})", blocks)


def render_html(title: str, lead: Sequence[Block], sections: Sequence[Section]) -> str:
    """-> a page that needs no other file and no network."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rales.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.filters["kind"] = lambda block: type(block).__name__
    template = environment.get_template("page.html.jinja")
    return template.render(title=title, disclaimer=DISCLAIMER, lead=lead, sections=sections)


def render_markdown(title: str, lead: Sequence[Block], sections: Sequence[Section]) -> str:
    """-> the same page for reading as text; pictures are the files beside it."""
    parts = [f"# {title}", f"**{DISCLAIMER}**", *map(markdown_block, lead)]
    for section in sections:
        parts += [f"## {section.title}", *map(markdown_block, section.blocks)]
    return "\n\n".join([*parts, f"**{DISCLAIMER}**"]) + "\n"


def markdown_block(block: Block) -> str:
    match block:
        case Text(text, warning):
            return f"> **{escape_markdown(text)}**" if warning else escape_markdown(text)
        case Heading(text):
            return f"### {escape_markdown(text)}"
        case Picture(file, alt, caption):
            return f"![{escape_markdown(alt)}]({file})\n\n{escape_markdown(caption)}"
        case Glance():
            return (
                f"**{escape_markdown(block.title)}: Score {block.score:.1f}** ({block.interval}). "
                f"**{escape_markdown(block.verdict)}**\n\n{escape_markdown(block.text)}"
            )
        case Gallery(table):
            return markdown_table(table)
        case Items(items, code):
            return "\n".join(
                f"- {escape_markdown(label)}: {f'`{text}`' if code else escape_markdown(text)}" for label, text in items
            )
    return markdown_table(block)


def markdown_table(table: Table) -> str:
    """Table -> a Markdown table with its caption above and its note below."""
    lines = [table.columns, ["---"] * len(table.columns)]
    lines += [
        [f"**{cell}**" if i in table.marked and j == 0 else cell for j, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    rows = "\n".join(
        "| " + " | ".join(escape_markdown(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
    return "\n\n".join(
        part for part in (f"**{escape_markdown(table.caption)}**", rows, escape_markdown(table.note)) if part
    )


def escape_markdown(text: str) -> str:
    """Text -> one line of Markdown in which nothing turns into a tag."""
    return " ".join(text.split()).replace("<", "&lt;")
