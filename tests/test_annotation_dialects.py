"""Tables as spreadsheets and our own commands save them, all with the same content."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from rales.data import annotation_dialects, read_cycles
from rales.data.corpus import read_corpus

PLAIN = (
    "path,start_s,end_s,label,patient,split\n"
    "visit1/anna.wav,0.0,0.4,normal,Zoë,train\n"
    "visit1/anna.wav,0.4,0.9,crackle,Zoë,train\n"
)
SEMICOLONS = PLAIN.replace(",", ";").replace("0.", "0,")


def as_json() -> bytes:
    columns = zip(*(line.split(",") for line in PLAIN.splitlines()), strict=True)
    return json.dumps({"notice": "n", **{name: cells for name, *cells in columns}}).encode()


SAVED = {
    "plain.csv": PLAIN.encode(),
    "decimal_comma.csv": SEMICOLONS.encode(),
    "quoted_comma.csv": PLAIN.replace("0.4,", '"0,4",').encode(),
    "tabs.tsv": PLAIN.replace(",", "\t").replace("0.", "0,").encode(),
    "sep.csv": b"sep=;\r\n" + SEMICOLONS.replace("\n", "\r\n").encode(),
    "empty_rows.csv": (PLAIN + ",,,,,\n,,,,,\n").encode(),
    "empty_rows_above.csv": (",,,,,\n" + PLAIN).encode(),
    "empty_columns.csv": "".join(f"{line},,\n" for line in PLAIN.splitlines()).encode(),
    "utf8_mark.csv": b"\xef\xbb\xbf" + PLAIN.encode(),
    "utf16.csv": PLAIN.encode("utf-16"),
    "utf16_tabs.csv": PLAIN.replace(",", "\t").encode("utf-16-be"),
    "ansi.csv": PLAIN.encode("cp1252"),
    "backslashes.csv": PLAIN.replace("/", "\\").encode(),
    "old_mac.csv": PLAIN.replace("\n", "\r").encode(),
    "no_suffix.csv": PLAIN.replace(".wav", "").encode(),
    "table.json": as_json(),
    "rows.json": json.dumps({"cycles": [{"path": "visit1/anna.wav", "start_s": a, "end_s": b, "label": label,
        "patient": "Zoë", "split": "train"} for a, b, label in ((0, 0.4, "normal"), (0.4, 0.9, "crackle"))]}).encode(),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "visit1").mkdir()
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(tmp_path / "visit1" / "anna.wav", wave, 4000)
    return tmp_path


@pytest.mark.parametrize("name", SAVED)
def test_every_way_to_save_it_is_read_by_check_and_train(folder: Path, name: str) -> None:
    (folder / name).write_bytes(SAVED[name])
    cycles = read_cycles(folder / name)
    columns = ["recording", "patient", "start_s", "end_s", "label", "split", "path"]
    sound = str(folder / "visit1" / "anna.wav")
    assert cycles[columns].to_numpy().tolist() == [
        ["anna", "Zoë", 0.0, 0.4, "normal", "train", sound],
        ["anna", "Zoë", 0.4, 0.9, "crackle", "train", sound],
    ]


@pytest.mark.parametrize("name", SAVED)
def test_and_by_pretrain_and_predict(folder: Path, name: str) -> None:
    (folder / name).write_bytes(SAVED[name])
    found = read_corpus([folder / name])
    assert [found.path(number) for number in range(len(found))] == [folder / "visit1" / "anna.wav"]


def test_a_path_is_changed_only_where_that_finds_a_file(folder: Path) -> None:
    """A backslash also stands for a byte that is no UTF-8, in the tables that Rales writes."""
    for path in ("visit1\\old\\xeb.wav", "old\\xeb.wav", "gone\\anna", "visit1\\anne"):
        assert annotation_dialects.mend_path(folder, path) == path
    for path in ("visit1\\anna.wav", "visit1\\anna", "visit1/anna"):
        assert annotation_dialects.mend_path(folder, path) == "visit1/anna.wav"
    (folder / "old\\xeb.wav").touch()
    assert annotation_dialects.mend_path(folder, "old\\xeb.wav") == "old\\xeb.wav"


def test_parquet_with_backslashes(folder: Path) -> None:
    pd.DataFrame({"path": ["visit1\\anna.wav"], "label": ["normal"]}).to_parquet(folder / "t.parquet")
    assert read_cycles(folder / "t.parquet")["path"].tolist() == [str(folder / "visit1/anna.wav")]
    assert read_corpus([folder / "t.parquet"]).path(0) == folder / "visit1/anna.wav"


def test_a_backslash_that_belongs_to_the_name_stays(folder: Path) -> None:
    (folder / "visit1" / "anna.wav").rename(folder / "a\\b.wav")
    (folder / "t.csv").write_text("path,label\na\\b.wav,normal\n")
    assert read_cycles(folder / "t.csv")["recording"].tolist() == ["a\\b"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04 and so on", "a spreadsheet's workbook in spite of its name; save the sheet as `CSV UTF-8`"),
        (b"path,label\n\xff\x81\x8d", "neither UTF-8 nor UTF-16 nor Windows text"),
        (b"path,label\na.wav,normal,x\n", "line 2: 3 columns, expected 2"),
    ],
)
def test_what_cannot_be_read_says_what_to_change(folder: Path, content: bytes, sentence: str) -> None:
    (folder / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv") as error:
        list(annotation_dialects.read_table(folder / "t.csv").rows)
    assert sentence in str(error.value)
    (folder / "book.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"book.xlsx: expected a table ending in .csv.*`CSV UTF-8`"):
        read_cycles(folder / "book.xlsx")
