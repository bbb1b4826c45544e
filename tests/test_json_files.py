"""JSON from outside: what it can say is read as it is, all else is a sentence that names the file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rales.files import json_files
from rales.files.json_files import DEEPEST, parse_json, read_json, read_json_lines

numbers = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
simple: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), numbers, st.text())
documents = st.recursive(simple, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(documents)
def test_whatever_json_can_say_comes_back(document: Any) -> None:
    assert parse_json(json.dumps(document), "x") == document
    assert parse_json(json.dumps(document, ensure_ascii=False).encode("utf-8-sig"), "x") == document


@given(st.binary())
def test_whatever_bytes_are_read_or_a_sentence(content: bytes) -> None:
    try:
        parse_json(content, "there/x.json")
    except ValueError as error:
        assert str(error).startswith("there/x.json: not valid JSON (")  # noqa: PT017
        assert str(error).endswith("; the file was damaged after it was written; copy it again")  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value: line 1, column 1"),
        ('{"a": 1', "line 1, column 8"),
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("[1e999]", "the number 1e999 is too large"),
        ("9" * 5000, "a whole number of 5000 digits is too large"),
        (str(2**63), "a whole number of 19 digits is too large"),
        ("[" * 100_000, f"more than {DEEPEST} levels"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), f"more than {DEEPEST} levels"),
        ('{"a":' * 900 + "1" + "}" * 900, f"more than {DEEPEST} levels"),
        ('"\\ud800"', r"the text '\ud800' holds half a character"),
        ('{"\\udfff": 1}', r"the text '\udfff' holds half a character"),
        ('[[{"a": ["b\\ud9ab"]}]]', "half a character"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' stands twice in one object"),
        (b"\xff\xfe{}", "no utf-8 text from byte 1 on"),
        (b'{"a": "\xed\xa0\x80"}', "no utf-8 text from byte 8 on"),
    ],
)
def test_what_json_cannot_say_is_a_sentence(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^x: not valid JSON \(.*; do this$") as error:
        parse_json(text, "x", "do this")
    assert reason in str(error.value)
    assert str(error.value).isascii()


def test_a_character_in_two_halves_is_whole() -> None:
    assert parse_json('"\\ud83e\\udec1"', "x") == "🫁"


def test_depth_up_to_the_limit_is_read() -> None:
    assert parse_json("[" * DEEPEST + "]" * DEEPEST, "x")


def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path}: a folder, a pipe or a device, expected a file of JSON; copy"):
            read_json(path, "copy it")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=r"loop: cannot be read \(Too many levels of symbolic links\)"):
        read_json(tmp_path / "loop")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "gone")
    (tmp_path / "large.json").write_text("[1, 2]")
    monkeypatch.setattr(json_files, "MOST_BYTES", 5)
    with pytest.raises(ValueError, match=r"large.json: 0 MiB, expected 0 at most"):
        read_json(tmp_path / "large.json")


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n[2]\n{"a": ')
    assert read_json_lines(path) == [{"a": 1}, [2]]
    path.write_text('{"a": 1}\n{"a": \n[2]\n')
    with pytest.raises(ValueError, match=r"x.jsonl, line 2: not valid JSON"):
        read_json_lines(path)
