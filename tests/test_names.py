"""Names that file systems allow and tables, terminals or other file systems do not: such a recording has its row like
any other, under a name that can be shown, and the others are as they were."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import soundfile

from rales.cli.console import print_message
from rales.data import audit_data
from rales.data.corpus import read_corpus
from rales.files.csv_cells import make_encodable, one_line, restore_table
from rales.files.json_files import to_jsonable
from rales.inference import prediction_writers
from rales.inference.predictor import Predictor
from rales.labels import CLASSES
from rales.recipes.registry import make_recipe
from rales.settings import to_dict
from tests import tiny
from tests.command import command

OFF = ("--quality", "off")  # the sound is a second of noise
STRANGE = {
    b"pati\xebnt.wav": "pati\\xebnt",  # as old zips and Windows shares leave it
    b"\x1b[31mred\x1b[2J.wav": "\\x1b[31mred\\x1b[2J",
    b"line\rend\n.wav": "line\\rend\\n",
    b"\xe2\x80\xa8.wav": "\\u2028",
    b"x" * 246 + b".wav": "x" * 246,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny.save(tiny.model(), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "d"
    place.mkdir()
    soundfile.write(place / "good.wav", tiny.breath(1, seed=1), tiny.RATE_HZ)
    for name in STRANGE:
        shutil.copy(place / "good.wav", place / os.fsdecode(name))
    return place


def safe(text: str) -> bool:
    """Whether text is UTF-8 of plain lines."""
    return text.encode("utf-8", "replace").decode() == text and one_line(text.replace("\n", "")) == text.replace(
        "\n", ""
    )


def test_names_are_shown_as_they_are_unless_they_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("anna.wav", "Patient Müller (2).wav", "患者\u3000一.wav", "naïve\u0301.wav", "a\\b.wav", "👶🏽.wav"):
        assert one_line(name) == make_encodable(name) == name
    for raw, wanted in STRANGE.items():
        assert one_line(os.fsdecode(raw)) == f"{wanted}.wav"
    print_message("one\ntwo\x1b")
    assert capsys.readouterr().err == "one\ntwo\\x1b\n"


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_tables(form: str, folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, status = tmp_path / f"out.{form}", tmp_path / "status.csv"
    code, _, err = command(capsys, "predict", folder, "--model", model, "--out", out, "--status", status, *OFF)
    assert code == 0, err
    readers: dict[str, Any] = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}
    table = readers[form](out)
    table = pd.DataFrame(json.loads(out.read_text())["cycles"]) if "recording" not in table else table
    table = restore_table(table) if form == "csv" else table
    names = {"good", *(make_encodable(os.fsdecode(name)).removesuffix(".wav") for name in STRANGE)}
    assert set(table["recording"]) == names
    assert len({tuple(rows["p_normal"]) for _, rows in table.groupby("recording")}) == 1  # the others are unaffected
    rows = restore_table(pd.read_csv(status))
    assert sorted(rows["path"]) == sorted(f"{folder}/{name}.wav" for name in names)
    assert set(rows["status"]) == {"ok"}
    assert safe(status.read_text(encoding="utf-8"))


def test_systems_that_prepare_their_own_sound(folder: Path) -> None:
    recipe = make_recipe("wang_splice", ["train.device=cpu"], size="tiny")
    network = recipe.build_model(recipe.settings)
    record = {"recipe": recipe.name, "config": to_jsonable(to_dict(recipe.settings)), "classes": list(CLASSES)}
    model = Predictor.from_network(recipe, network, record)
    table = model.predict([folder / "good.wav", folder / os.fsdecode(b"pati\xebnt.wav")], quality=False)
    assert table["recording"].tolist() == ["good", "pati\\xebnt"]
    assert table["p_normal"].nunique() == 1


@pytest.mark.parametrize("form", ["audacity", "raven"])
def test_a_file_a_recording(
    form: str, folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("predict", folder, "--model", model, "--out", tmp_path / "labels", "--format", form)
    code, _, err = command(capsys, *words)
    assert code == 0, err
    written = os.listdir(os.fsencode(tmp_path / "labels"))
    assert len(written) == 1 + len(STRANGE)
    assert all(len(name) <= 255 for name in written)
    assert all(safe(name.decode()) for name in written)
    assert len({Path(tmp_path, "labels", os.fsdecode(name)).read_text() for name in written}) == (
        1 if form == "audacity" else len(written)
    )


def test_long_names_that_begin_alike_are_two_files() -> None:
    one, other = (prediction_writers.fit_file_name("ä" * 120 + end, ".raven.txt") for end in ("1", "2"))
    assert one != other
    assert len(one.encode()) <= prediction_writers.LONGEST_NAME
    assert prediction_writers.fit_file_name("anna", ".raven.txt") == "anna.raven.txt"


def test_what_is_printed(folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in STRANGE:
        (folder / os.fsdecode(name)).write_bytes(b"damaged")
    code, out, err = command(capsys, "predict", folder, "--model", model)
    assert code == 1
    assert safe(out)
    assert safe(err)
    assert err.count("rales: ") == len(STRANGE)
    code, out, _ = command(capsys, "predict", folder, "--model", model, "--json")
    assert safe(out)
    document = json.loads(out)
    assert all(safe(row["sentence"]) for row in document["status"])
    assert [safe(problem) for problem in document["problems"]] == [True] * len(STRANGE)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embeddings(suffix: str, folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(capsys, "embed", folder, "--model", model, "--out", tmp_path / f"e{suffix}", *OFF)
    assert code == 0, err
    assert f"{1 + len(STRANGE)} vectors" in err


def test_search_finds_a_recording_by_its_path(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("usearch", reason="the index of `rales search` is usearch's")
    out = tmp_path / os.fsdecode(b"e\xeb.npz")
    assert command(capsys, "embed", folder, "--model", model, "--out", out, *OFF)[0] == 0
    query = folder / os.fsdecode(b"pati\xebnt.wav")
    code, printed, err = command(capsys, "search", query, "--in", out, "--json")
    assert code == 0, err
    document = json.loads(printed)
    assert document["query"] == make_encodable(str(query))
    assert len(document["nearest"]) == len(STRANGE)
    code, printed, err = command(capsys, "search", query, "--in", out)
    assert code == 0, err
    assert safe(printed + err)


@pytest.mark.parametrize("raw", [*STRANGE, b"a$b^$.wav", b"$.wav"])
def test_explain(raw: bytes, folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`$b^$` is a formula to matplotlib, and a broken one."""
    pytest.importorskip("matplotlib", reason="the picture of `rales explain` is matplotlib's")
    path = folder / os.fsdecode(raw)
    if not path.exists():
        shutil.copy(folder / "good.wav", path)
    words = ("explain", path, "--cycle", "1", "--model", model, *OFF, "--out", tmp_path / "w.png")
    code, _, err = command(capsys, *words)
    assert code == 0, err
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = command(capsys, *words[:-2], "--json")
    assert code == 0, err
    assert json.loads(out)["recording"] == make_encodable(os.fsdecode(raw).removesuffix(".wav"))


def test_files_that_must_be_utf8_are_refused_in_words(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / os.fsdecode(b"m\xeb")
    bad.mkdir()
    shutil.copy(model, bad / "model.safetensors")
    code, _, err = command(capsys, "predict", folder, "--model", bad / "model.safetensors")
    assert code == 1
    assert err == f"rales: {tmp_path}/m\\xeb/model.safetensors: the name is not UTF-8; rename the file or folder\n"
    code, _, err = command(capsys, "embed", folder, "--model", model, "--out", f"{bad}.parquet", *OFF)
    assert code == 1
    assert "m\\xeb.parquet" in err
    assert "the name is not UTF-8" in err
    data = tiny.write_folder(tmp_path / "data")
    settings = [word for setting in tiny.SETTINGS for word in ("--set", setting)]
    words = ["train", "m2d_fusion", "--data", data, "--out", bad / "run", "--size", "tiny", *settings]
    code, _, err = command(capsys, *words)
    assert code == 1
    assert f"{tmp_path}/m\\xeb/run: the name is not UTF-8" in err
    assert not (bad / "run").exists()  # before any epoch


def test_check_and_training_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny.write_folder(tmp_path / "data")
    good = sorted(data.glob("101_*.wav"))[0]
    for suffix in (".wav", ".txt"):
        shutil.copy(good.with_suffix(suffix), data / os.fsdecode(b"1\xeb1_1b1_Al_sc_Meditron" + suffix.encode()))
    found = audit_data(data)
    assert found.damaged == ["1\\xeb1_1b1_Al_sc_Meditron"]
    assert any("is not UTF-8 or holds control characters; rename the file" in problem for problem in found.problems)
    assert found.cycles["recording"].nunique() == 8
    code, out, err = command(capsys, "check", data)
    assert code == 1
    assert safe(out + err)
    words = ["train", "m2d_fusion", "--data", data, "--out", tmp_path / "run", "--size", "tiny", "--epochs", "1"]
    code, out, err = command(capsys, *words, *(w for s in tiny.SETTINGS[:-3] for w in ("--set", s)))
    assert code == 1  # before any epoch
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert safe(out + err)
    assert "1\\xeb1_1b1_Al_sc_Meditron" in err


def test_pretraining_leaves_out_what_it_cannot_name_and_says_so(folder: Path) -> None:
    collection = read_corpus([folder])
    facts = collection.facts()
    assert (facts["recordings"], facts["left_out"]) == (len(STRANGE), 1)
    (note,) = facts["folders"][0]["notes"]
    assert note == f"{folder}: 1 recordings left out, their names are not UTF-8: pati\\xebnt.wav"
    assert all(collection.path(number).is_file() for number in range(len(collection)))
