"""What the command prints: a result on stdout, sentences on stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from rales.cells import one_line

if TYPE_CHECKING:
    import pandas as pd


def show(document: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], list[str]]) -> None:
    """A job's result on stdout: as one JSON document, or as lines for a person."""
    from rales.runs import clean

    print(json.dumps(clean(document), indent=1) if as_json else "\n".join(lines(plain(document))))


def say(sentence: str) -> None:
    """A sentence to the person, on stderr."""
    print("\n".join(map(one_line, sentence.split("\n"))), file=sys.stderr)


def say_once(sentences: Iterable[str]) -> None:
    """Each of the sentences once, of several processes that train together by the first."""
    if os.environ.get("RANK", "0") == "0":
        for sentence in dict.fromkeys(sentences):
            say(sentence)


def plain(value: Any) -> Any:
    """JSON value -> the same without control characters in its texts, as names of files may hold."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return one_line(value) if isinstance(value, str) else value


def records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Table -> its rows for JSON, a missing value as null."""
    return [{str(k): (None if v != v else v) for k, v in row.items()} for row in table.to_dict("records")]
