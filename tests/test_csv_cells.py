"""Cells of CSV: nothing that a spreadsheet would compute, one line each, and the text comes back."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rales.data
from rales.data import manifest
from rales.files.csv_cells import defuse_cell, defuse_table, one_line, restore_cell
from rales.files.writers import write_csv
from rales.inference import prediction_writers

FORMULAS = ["=1+1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "-1", "+A1", "-SUM(A1)", "＝1"]
PLAIN = ["anna", "-dash", "a=b", "001", "1e5", "'tis", "back\\slash", "percent%20", "患者", 'quote"double', ""]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_compute_is_marked_as_text(text: str) -> None:
    assert defuse_cell(text).startswith("'")
    assert restore_cell(defuse_cell(text)) == text


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert defuse_cell(text) == text == restore_cell(text)


@given(st.one_of(st.text(), st.text("'\"=+-@\r\n\t\x1ba1")))
def test_every_text_comes_back_from_one_line(text: str) -> None:
    cell = defuse_cell(text)
    assert restore_cell(cell) == text
    assert not cell.startswith(("=", "@", "\t", "\r"))
    assert len(cell.splitlines()) <= 1
    line = io.StringIO(newline="")
    csv.writer(line).writerow([cell, "next"])
    assert next(csv.reader(io.StringIO(line.getvalue(), newline=""))) == [cell, "next"]
    assert len(one_line(text).splitlines()) <= 1


def test_numbers_and_missing_values_stay() -> None:
    frame = pd.DataFrame({"n": [-1.5, 2.0], "t": ["=1", None]})
    assert defuse_table(frame)["n"].tolist() == [-1.5, 2.0]
    assert defuse_table(frame)["t"].tolist()[0] == "'=1"
    assert defuse_table(frame)["t"].isna().tolist() == [False, True]


@pytest.mark.parametrize("name", ["=1+1", "a\rb", "a\nb", "\x1b[31mred", "-2+3", "@SUM(A1)"])
def test_every_csv_of_ours_is_defused_and_read_back(tmp_path: Path, name: str) -> None:
    """predict's and the page's (formats), the run folder's (runs) and own tables (data.table)."""
    rows = pd.DataFrame({"recording": [name], "path": [f"{name}.wav"], "start_s": [0.0], "end_s": [1.0]})
    rows = rows.assign(label="normal", cycle=1, crackle=0, wheeze=0, patient="p", device="", location="", mode="")
    rows["split"] = "train"
    prediction_writers.write_table([rows], tmp_path / "predicted.csv")
    write_csv(tmp_path / "run.csv", rows)
    manifest.write_manifest(rows.assign(path=str(tmp_path / f"{name}.wav")), tmp_path / "own.csv")
    for file in ("predicted.csv", "run.csv", "own.csv"):
        text = (tmp_path / file).read_text()
        assert len(text.splitlines()) == 2
        assert "\x1b" not in text
        assert not any(cell.startswith(("=", "@", "-", "+")) for line in csv.reader(text.splitlines()) for cell in line)
        assert rales.data.read_cycles(tmp_path / file, audio=False)["recording"].tolist() == [name]
