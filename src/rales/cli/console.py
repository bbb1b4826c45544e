"""What the command prints: a result on stdout, sentences on stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rales.files.csv_cells import make_encodable, one_line

if TYPE_CHECKING:
    import pandas as pd


def print_result(document: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], list[str]]) -> None:
    """A job's result on stdout: as one JSON document, or as lines for a person."""
    from rales.files.json_files import to_jsonable

    if as_json:
        print(json.dumps(map_texts(to_jsonable(document), make_encodable), indent=1))
    else:
        print("\n".join(lines(map_texts(document, one_line))))


def print_message(sentence: str) -> None:
    """A sentence to the person, on stderr."""
    print("\n".join(map(one_line, sentence.split("\n"))), file=sys.stderr)


def print_messages_once(sentences: Iterable[str]) -> None:
    """Each of the sentences once, of several processes that train together by the first."""
    if os.environ.get("RANK", "0") == "0":
        for sentence in dict.fromkeys(sentences):
            print_message(sentence)


def map_texts(value: Any, function: Callable[[str], str]) -> Any:
    """JSON value -> the same with every text as the function gives it: names of files may hold what cannot be shown."""
    if isinstance(value, dict):
        return {map_texts(key, function): map_texts(inner, function) for key, inner in value.items()}
    if isinstance(value, list):
        return [map_texts(inner, function) for inner in value]
    return function(value) if isinstance(value, str) else value


def table_records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Table -> its rows for JSON, a missing value as null."""
    return [{str(k): (None if v != v else v) for k, v in row.items()} for row in table.to_dict("records")]


def column_records(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Columns of equal length, lists or arrays -> their rows for JSON, a missing value as null."""
    plain = [values.tolist() if hasattr(values, "tolist") else values for values in columns.values()]
    return [dict(zip(columns, (None if v != v else v for v in row), strict=True)) for row in zip(*plain, strict=True)]
