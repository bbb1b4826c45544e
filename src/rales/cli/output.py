"""What the command prints: a result on stdout, sentences on stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def show(document: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], list[str]]) -> None:
    """A job's result on stdout: as one JSON document, or as lines for a person."""
    from rales.runs import clean

    if as_json:
        print(json.dumps(clean(document), indent=1))
    else:
        print(printable("\n".join(lines(document))))


def say(sentence: str) -> None:
    """A sentence to the person, on stderr."""
    print(printable(sentence), file=sys.stderr)


def printable(text: str) -> str:
    """Lines -> the same without what a terminal would take for an order."""
    from rales.config import shown

    return "\n".join(shown(line) for line in text.split("\n"))


def say_once(sentences: Iterable[str]) -> None:
    """Each of the sentences once, of several processes that train together by the first."""
    if os.environ.get("RANK", "0") == "0":
        for sentence in dict.fromkeys(sentences):
            say(sentence)


def records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Table -> its rows for JSON, a missing value as null."""
    return [{str(k): (None if v != v else v) for k, v in row.items()} for row in table.to_dict("records")]
