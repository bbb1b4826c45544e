"""Labels that may be wrong: planted ones come first, runs that saw the patients are refused, the page can be heard."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from rales.data import read_cycles
from rales.errors import UsageError
from rales.jobs import label_errors
from rales.labels import CLASSES, ICBHI, LabelSet
from tests import tiny
from tests.command import command
from tests.test_report import write_run

pytest.importorskip("cleanlab")


def answers(labels: list[str], sure: float = 0.85) -> pd.DataFrame:
    """Rows with probabilities that are `sure` of the class in `heard`, here the label itself."""
    rows = pd.DataFrame({"recording": [f"r{n}" for n in range(len(labels))], "label": labels})
    p = np.full((len(labels), 4), (1 - sure) / 3)
    p[np.arange(len(labels)), [CLASSES.index(label) for label in labels]] = sure
    return rows.assign(**dict(zip(ICBHI.columns, p.T, strict=True)))


def test_planted_errors_come_first() -> None:
    heard = ["normal"] * 20 + ["crackle"] * 15 + ["wheeze"] * 15 + ["both"] * 10
    rows = answers(heard)
    wrong = {3: "wheeze", 25: "normal", 52: "crackle"}
    rows["label"] = [wrong.get(number, label) for number, label in enumerate(heard)]
    ranked = label_errors.rank_labels(rows, ICBHI)
    assert set(ranked["recording"][:3]) == {"r3", "r25", "r52"}
    assert ranked["suspect"].tolist() == [True] * 3 + [False] * 57
    assert dict(zip(ranked["recording"][:3], ranked["suggested"][:3], strict=True)) == {
        "r3": "normal",
        "r25": "crackle",
        "r52": "both",
    }
    assert ranked["quality"][0] == pytest.approx(0.05)  # of the label that is given
    assert ranked["rank"].tolist() == list(range(1, 61))


def test_classes_that_no_cycle_has_do_not_matter() -> None:
    rows = answers(["normal"] * 6 + ["wheeze"] * 6)
    rows.loc[0, "label"] = "wheeze"
    ranked = label_errors.rank_labels(rows, ICBHI)
    assert (ranked["recording"][0], ranked["suggested"][0]) == ("r0", "normal")
    assert len(label_errors.rank_labels(answers(["normal"] * 4), ICBHI)) == 4


def test_what_runs_say_is_averaged_and_leaky_ones_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1)
    stored = [pd.read_csv(tmp_path / name / "predictions.csv", dtype={"recording": str}) for name in "ab"]
    cycles = stored[0][["recording", "cycle", "start_s", "end_s"]].assign(label=stored[0]["true_label"])
    rows, origin = label_errors.answer_by_runs(cycles, [tmp_path], ICBHI)
    assert origin == "the test cycles of 2 runs"
    both = [table.set_index(["recording", "cycle"])["p_normal"] for table in stored]
    mean = ((both[0] + both[1]) / 2).loc[list(zip(rows["recording"], rows["cycle"], strict=True))]
    np.testing.assert_allclose(rows["p_normal"], mean)
    assert label_errors.answer_by_runs(cycles, [tmp_path / "a"], ICBHI)[1] == "the test cycles of 1 run"
    with pytest.raises(UsageError, match="a run of normal, crackle, wheeze, both"):
        label_errors.answer_by_runs(cycles, [tmp_path], LabelSet(("normal", "abnormal")))
    with pytest.raises(UsageError, match="none of the runs' test cycles is in this data"):
        label_errors.answer_by_runs(cycles.assign(recording="other"), [tmp_path], ICBHI)
    with pytest.raises(UsageError, match="no finished run"):
        label_errors.answer_by_runs(cycles, [tmp_path / "none"], ICBHI)


def test_the_command_writes_a_page_with_sounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    data = tiny.write_folder(tmp_path / "data")
    code, _, err = command(capsys, "suspect", "--data", data, "--out", tmp_path / "out", "--top", -3)
    assert (code, "--top -3: expected 1 or more" in err) == (2, True)
    code, out, err = command(capsys, "suspect", "--data", data, "--out", tmp_path / "out", "--top", 3, "--part", "all")
    assert code == 0, err
    assert "which agree with the label" in out
    table = pd.read_csv(tmp_path / "out" / "suspects.csv", dtype={"recording": str})
    assert len(table) == len(read_cycles(data))
    page = (tmp_path / "out" / "suspects.html").read_text()
    sounds = re.findall(r"data:audio/flac;base64,([^\"]+)", page)
    assert len(sounds) == 3
    wave, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(sounds[0])))
    first = table.iloc[0]
    assert (rate_hz, len(wave)) == (tiny.RATE_HZ, round(tiny.RATE_HZ * (first["end_s"] - first["start_s"])))
    assert np.abs(wave).max() == pytest.approx(0.9, abs=0.01)
    assert "not a diagnosis" in page
    assert "only listening tells" in page
