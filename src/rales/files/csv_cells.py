"""Escape text for CSV cells, so that no spreadsheet computes it and no row breaks, and read it back.

A cell that a spreadsheet would compute (OWASP: CSV injection) or that holds control characters gets an apostrophe in
front, the mark by which spreadsheets know text. Behind it stands the text itself or, with control characters, the text
as JSON.
"""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# `-dash` is left alone: signs before a bare word compute nothing, and other programs find the recording by this name.
_FORMULA = re.compile(r"[=@\t\r\n＝＋－＠]|[+-](?![^\W\d]+$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NO_UTF8 = re.compile(r"[\ud800-\udfff]")  # Python's stand-ins for such bytes, and lone surrogates
_MARKED = re.compile(r"'(['\"]|" + _FORMULA.pattern + ")")


def defuse_cell(text: str) -> str:
    """Text -> a CSV cell that is neither a formula nor more than one line; `restore_cell` gives the text back."""
    if _CONTROL.search(text):
        return "'" + json.dumps(text)
    return "'" + text if _FORMULA.match(text) or _MARKED.match(text) else text


def restore_cell(cell: str) -> str:
    """CSV cell -> the text that `defuse_cell` was given; cells that it never wrote stay as they are."""
    if not _MARKED.match(cell):
        return cell
    if cell.startswith("'\""):
        try:
            return str(json.loads(cell[1:]))
        except json.JSONDecodeError:
            return cell
    return cell[1:]


def defuse_table(table: "pd.DataFrame") -> "pd.DataFrame":
    """Table -> the same with every text cell `defuse_cell`; numbers and missing values stay."""
    return map_text_cells(table, defuse_cell)


def restore_table(table: "pd.DataFrame") -> "pd.DataFrame":
    """Table as pandas read it from CSV -> the same with every text cell `restore_cell`."""
    return map_text_cells(table, restore_cell)


def map_text_cells(table: "pd.DataFrame", function: Callable[[str], str]) -> "pd.DataFrame":
    words = [name for name in table.columns if table[name].dtype.kind == "O"]
    return table.assign(
        **{name: [function(cell) if isinstance(cell, str) else cell for cell in table[name]] for name in words}
    )


def one_line(text: str) -> str:
    """Text with file names in it -> the same for terminals and sentences: control characters, line ends and bytes that
    are no UTF-8, all of which a name may hold, as `\\x1b` and the like."""
    return make_encodable(_CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text))


def make_encodable(text: str) -> str:
    """Text -> the same with bytes that are no UTF-8, which no table takes, as `\\xeb`."""
    return _NO_UTF8.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)
