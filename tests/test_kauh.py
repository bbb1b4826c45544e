"""KAUH reader: labels of whole recordings from the table or the published names, and what can be wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from rales.data import audit_data, kauh, read_contents, read_cycles
from rales.data.reader import Findings, recordings_table

ROWS = ("BP001,B,1,Asthma,E W", "DP001,D,1,Asthma,E W", "EP002,E,2,N,N", "BP003,B,3,COPD,I C E W", "BP004,B,4,BRON,C")


def write_folder(
    folder: Path, rows: tuple[str, ...] = ROWS, head: str = "file,filter,patient,diagnosis,sound_type"
) -> Path:
    folder.mkdir(parents=True)
    (folder / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
    for number, row in enumerate(rows):
        write_sound(folder / f"{row.split(',')[0]}.flac", seed=number)
    return folder


def write_sound(path: Path, seed: int = 0) -> None:
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 8000), 4000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("N", Findings(0, 0, 0)),
        ("I E W", Findings(1, 0, 1)),
        ("I C E W", Findings(1, 1, 1)),
        ("Crep", Findings(1, 1, 0)),
        ("I C B", Findings(1, 1, 0)),
        ("Bronchial", Findings(1, 0, 0)),
    ],
)
def test_sound_types(text: str, expected: Findings) -> None:
    assert kauh.parse_sound_type(text) == expected


def test_a_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "kauh")
    found = audit_data(folder)
    assert found.problems == []
    counts = found.to_dict()
    assert (counts["recordings"], counts["patients"], counts["cycles"]) == (5, 4, 0)
    assert counts["recording_labels"] == {"recordings": 5, "normal": 1, "abnormal": 4, "crackle": 2, "wheeze": 3}
    table = recordings_table(read_contents(folder, audio=True, decode=False)).set_index("recording")
    rows = {str(name): row for name, row in table.to_dict("index").items()}
    assert {name: row["filter"] for name, row in rows.items()} == {
        "BP001": "bell", "DP001": "diaphragm", "EP002": "extended", "BP003": "bell", "BP004": "bell"
    }  # fmt: skip
    assert [rows["BP003"][name] for name in ("patient", "abnormal", "crackle", "wheeze")] == ["3", 1, 1, 1]
    assert Path(str(rows["BP001"]["path"])).name == "BP001.flac"
    with pytest.raises(ValueError, match="labels of whole recordings, none of cycles"):
        read_cycles(folder)


def test_the_published_names_need_no_table(tmp_path: Path) -> None:
    write_sound(tmp_path / "BP1_Asthma,I E W,P L L,70,M.wav")
    write_sound(tmp_path / "EP12_N,N,A R U,33,F.wav")
    table = recordings_table(read_contents(tmp_path, audio=True, decode=False))
    assert table[["patient", "filter", "location", "wheeze", "abnormal"]].to_numpy().tolist() == [
        ["1", "bell", "P L L", 1, 1],
        ["12", "extended", "A R U", 0, 0],
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("BP001,B,1,Asthma,E Q", "line 2: sound_type 'E Q': 'Q' in it is not known; expected N, C"),
        ("BP001,B,1,Asthma,E", "line 2: sound_type 'E': it names no sound"),
        ("BP001,B,1,Asthma,N W", "line 2: sound_type 'N W' is normal and wheeze at once"),
        ("BP001,X,1,Asthma,N", "line 2: filter 'X', expected one of B, D, E"),
        ("BP001,B,,Asthma,N", "line 2: no patient"),
    ],
)
def test_broken_rows(tmp_path: Path, row: str, said: str) -> None:
    folder = write_folder(tmp_path / "kauh", (row, *ROWS[1:]))
    found = audit_data(folder)
    assert len(found.problems) == 1
    assert said in found.problems[0]
    assert found.damaged == ["BP001"]
    assert "BP001" not in set(recordings_table(read_contents(folder, audio=True, decode=False))["recording"])


def test_flags_that_say_something_else(tmp_path: Path) -> None:
    head = "file,filter,patient,sound_type,crackle,wheeze,normal"
    folder = write_folder(tmp_path / "kauh", ("BP001,B,1,E W,1,1,0", "BP002,B,2,N,0,0,1"), head)
    (problem,) = audit_data(folder).problems
    assert "line 2: crackle is '1', but sound_type 'E W' makes it 0" in problem


def test_missing_and_doubled_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "kauh", (*ROWS, "BP004,B,4,BRON,C"))
    (folder / "BP001.flac").unlink()
    (folder / "DP001.flac").write_bytes(b"no sound")
    write_sound(folder / "BP009.flac")
    problems = "\n".join(audit_data(folder).problems)
    for said in ("no recording BP001.wav", "DP001.flac", "BP009.flac: no annotation", "BP004 has 2 rows; keep one"):
        assert said in problems


def test_a_table_of_something_else_is_no_such_folder(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\nx,normal\n")
    assert not kauh.is_layout(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"PK\x03\x04")
    assert not kauh.is_layout(tmp_path)
    with pytest.raises(ValueError, match="no column filter"):
        kauh.find_recordings(
            write_folder(tmp_path / "kauh", head="file,side,patient,diagnosis,sound_type"), audio=True, decode=False
        )


def test_shared_recordings(shared_data: Path) -> None:
    if not (shared_data / "kauh").is_dir():
        pytest.skip("the KAUH recordings are not here")
    found = audit_data(shared_data / "kauh")
    assert found.problems == []
    assert found.to_dict()["recording_labels"] == {
        "recordings": 336, "normal": 105, "abnormal": 231, "crackle": 105, "wheeze": 129
    }  # fmt: skip
    assert found.to_dict()["patients"] == 112
