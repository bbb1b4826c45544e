"""`--config rales.yaml`: names, lines, and that what the command says wins."""

import json
from pathlib import Path
from typing import Any

import pytest

from rales.cli import main
from rales.errors import FileProblem, SettingError, UsageError
from rales.files.settings_file import read_settings_file
from rales.recipes.registry import make_recipe

GOOD = """\
size: tiny   # of a random start
train:
  lr: 1e-3
  metrics: []
split.name: folds
model:
  layers: [1, 2]
independent: false
"""


def written(folder: Path, text: str) -> Path:
    (folder / "rales.yaml").write_text(text)
    return folder / "rales.yaml"


def test_nested_and_dotted_names_are_words_as_they_stand_there(tmp_path: Path) -> None:
    found = read_settings_file(written(tmp_path, GOOD))
    assert found.values == {
        "size": "tiny",
        "train.lr": "1e-3",
        "train.metrics": "",
        "split.name": "folds",
        "model.layers": "1,2",
        "independent": "false",
    }
    assert found.lines == {"size": 1, "train.lr": 3, "train.metrics": 4, "split.name": 5, "model.layers": 7} | {
        "independent": 8
    }
    settings = make_recipe("m2d_fusion", found.values).settings
    assert (settings.train.lr, settings.model.layers, settings.split.name) == (1e-3, (1, 2), "folds")
    assert read_settings_file(written(tmp_path, "# nothing yet\n")).values == {}
    assert read_settings_file(written(tmp_path, '{"train": {"epochs": 3}}')).values == {"train.epochs": "3"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  lr: [", "line 2: no YAML"),
        ("- a\n", "line 1: expected `name: value`"),
        ("train:\n  lr: 1\ntrain.lr: 2\n", "line 3: train.lr stands there again, first in line 2"),
        ("a: 1\ntrain:\n", "line 2: train has no value"),
        ("a: [[1]]\n", "line 1: a: a list of lists"),
        ("a: &x [1]\nb: *x\n", "alias"),
        ("a: 1\n---\nb: 2\n", "no YAML"),
        ("[1]: 2\n", "line 1: a name that is no word"),
    ],
)
def test_what_is_no_settings_file_names_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FileProblem, match=r"rales\.yaml") as raised:
        read_settings_file(written(tmp_path, text))
    assert said in str(raised.value)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="no such file of settings"):
        read_settings_file(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff")
    with pytest.raises(FileProblem, match="byte 4"):
        read_settings_file(tmp_path / "binary.yaml")


def test_a_wrong_setting_is_named_by_its_line_unless_the_command_says_it(tmp_path: Path) -> None:
    file = read_settings_file(written(tmp_path, "size: tiny\ntrain:\n  learning_rate: 1\n  epochs: many\n"))
    with (
        pytest.raises(UsageError, match=r"rales.yaml, line 3: train.learning_rate: no such field.*nearest is train.lr"),
        file.name_lines(),
    ):
        make_recipe("m2d_fusion", file.values)
    with (
        pytest.raises(UsageError, match=r"rales\.yaml, line 4: train.epochs=many: expected a whole number"),
        file.name_lines(),
    ):
        make_recipe("m2d_fusion", {"train.epochs": "many"})
    with pytest.raises(SettingError, match=r"--set train\.lr=no: expected a number"), file.name_lines():
        make_recipe("m2d_fusion", {"train.lr": "no"})

    kept, notes = file.leave_to(["train.epochs = 3", "size=tiny"])
    assert kept.values == {"train.learning_rate": "1"}
    assert notes == [f"{tmp_path}/rales.yaml, line 4: train.epochs=many does not count; 3 is given beside it"]


@pytest.mark.parametrize(
    ("words", "epochs", "lr", "said"),
    [
        ([], 7, 1e-3, ""),
        (["--epochs", "5"], 5, 1e-3, "train.epochs=7 does not count; 5 is given beside it"),
        (["--set", "train.lr=0.5"], 7, 0.5, "train.lr=1e-3 does not count; 0.5 is given beside it"),
    ],
)
def test_the_command_wins_over_the_file_and_the_file_over_presets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words, epochs, lr, said
) -> None:
    """Of a sweep, whose trials are made before anything is read; `tiny` brings another learning rate."""
    made: list[Any] = []

    def run(planned: Any, *_: Any, **__: Any) -> list[Any]:
        made.extend(planned)
        return []

    monkeypatch.setattr("rales.jobs.sweep.run", run)
    file = written(tmp_path, "size: tiny\ntrain: {epochs: 7, lr: 1e-3}\n")
    with pytest.raises(SystemExit):
        main(["sweep", "m2d_fusion", "--data", "d", "--out", str(tmp_path), "--config", str(file), "--json", *words])
    settings = make_recipe("m2d_fusion", made[0].words).settings
    assert (settings.size, settings.train.epochs, settings.train.lr) == ("tiny", epochs, lr)
    told = capsys.readouterr()
    assert json.loads(told.out) == {"trials": []}
    assert said in told.err
    assert bool(said) == ("does not count" in told.err)


def test_other_words_take_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(written(tmp_path, "train.epoch: 3\npretrain.epoch: 3\n"))
    place = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--config", file]
    for words in (["train", "m2d_fusion"], ["sweep", "m2d_fusion"], ["pretrain"]):
        with pytest.raises(SystemExit, match="2"):
            main([*words, *place])
        assert "rales.yaml, line 1: train.epoch: no such field" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["reproduce", "table1", "--dry-run", *place])
    assert "rales.yaml, line 1: train.epoch: no such field" in capsys.readouterr().err
