"""Run folders -> report: numbers in the tables, broken folders, the page itself."""

import csv
import io
import json
import os
import re
import warnings
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

import write_leaderboard
from rales.cli import result_lines
from rales.errors import UsageError
from rales.files.atomic import lock_folder
from rales.labels import ICBHI, LabelSet
from rales.report import (
    headline,
    literature,
    load_runs,
    paper_text,
    plots,
    rank_systems,
    scores_table,
    worst_cycles,
    write_report,
)
from rales.report.load_runs import Run
from rales.report.page import Section, render_html
from rales.report.systems import System, group_into_systems, name_systems, plain_name, show_setting
from rales.training import epoch_logits

CLASSES = ["normal", "crackle", "wheeze", "both"]
TRUE = [0, 0, 0, 0, 0, 0, 1, 1, 2, 3]
# 5 of 6 normals and 2 of 4 abnormals right: Sp 83.33, Se 50.00, Score 66.67; two-class Se 75.00
SEED0 = [0, 0, 0, 0, 0, 1, 1, 2, 0, 3]
# 4 of 6 and 1 of 4: Sp 66.67, Se 25.00, Score 45.83
SEED1 = [0, 0, 0, 0, 1, 1, 1, 0, 0, 0]


def targets_of(numbers: Sequence[int], label_set: LabelSet) -> NDArray[np.int64]:
    """Undo `LabelSet.encode_rows`."""
    rows = np.asarray(numbers, np.int64)
    return rows[:, None] >> np.arange(len(label_set)) & 1 if label_set.independent else rows


def write_run(
    folder: Path,
    predicted: Sequence[int] = SEED0,
    true: Sequence[int] = TRUE,
    *,
    seed: int = 0,
    recipe: str = "m2d_fusion",
    variant: str = "all_learned",
    select: str = "last",
    weights: str = "m2d_vit_base-80x608p16x16-221006-mr7",
    whole: bool = False,
    test_scores: Sequence[float] = (0.4, 0.7, 2 / 3),
    validation_scores: Sequence[float] = (),
    patients: Sequence[str] = (),
    device: Sequence[str] = (),
    confidence: float = 0.7,
    fold: tuple[int, int] | None = None,
    overlap: Sequence[str] = (),
    overrides: dict[str, Any] | None = None,
    options: dict[str, str] | None = None,
    data_digest: str = "",
    validation_aurocs: Sequence[float] = (),
    by_epoch: Sequence[Sequence[int]] = (),
    label_set: LabelSet = ICBHI,
) -> Path:
    """A finished run folder as `rales train` writes it, with these test predictions, and those of every epoch. Labels
    are numbers of `LabelSet.encode_rows`."""
    folder.mkdir(parents=True)
    number = len(true)
    learned = variant == "all_learned"
    config = {
        "recipe": recipe,
        "overrides": overrides or {},
        "seed": seed,
        "config": {
            "seed": seed,
            **({"variant": variant, "size": "base"} if variant else {}),
            **(options or {}),
            "weights": weights,
            "train": {"epochs": len(test_scores), "select": select},
            "model": {"layers": list(range(1, 13)), "learned": learned},
        },
        **label_set.to_record(),
        "split": {
            "name": "official",
            "digest": "d1ce5700aa",
            "data_digest": data_digest,
            "train": {"recordings": 539 if whole else 60, "cycles": 4142, "classes": {"normal": 2063, "crackle": 1215}},
            "test": {"recordings": 381 if whole else 66, "cycles": number, "classes": {"normal": 1579}},
            "whole_database": whole,
        },
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "commit": "abc123",
        "command": f"rales train {recipe} --data icbhi --out {folder.name} --seed {seed}",
    }
    if not label_set.is_icbhi:
        config["config"] |= label_set.to_record()
    if fold:
        config["config"]["split"] = {"name": "folds", "fold": fold[0], "folds": fold[1]}
        config["split"] |= {"name": "folds", "digest": f"fold{fold[0]}"}
    if overlap:
        config["split"]["overlap_patients"] = list(overlap)
    (folder / "config.json").write_text(json.dumps(config))
    lines = []
    for epoch, score in enumerate(test_scores, start=1):
        found: dict[str, float] = {"train": 1 - 0.4 / epoch, "test": score}
        if validation_scores:
            found["validation"] = validation_scores[epoch - 1]
        aurocs = {"validation": validation_aurocs[epoch - 1]} if validation_aurocs else {}
        lines += [
            {
                "epoch": epoch,
                "split": split,
                "loss": 2 - s,
                "specificity": s,
                "sensitivity": s,
                "score": s,
                "lr": 1e-4,
                **({"auroc": aurocs[split]} if split in aurocs else {}),
            }
            for split, s in found.items()
        ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    probabilities = np.full((number, len(label_set)), (1 - confidence) / max(len(label_set) - 1, 1))
    if label_set.independent:
        probabilities = np.where(targets_of(predicted, label_set) == 1, confidence, 1 - confidence)
    else:
        probabilities[np.arange(number), predicted] = confidence
    table = pd.DataFrame(
        {
            "recording": [f"r{i // 2}" for i in range(number)],
            "cycle": [i % 2 for i in range(number)],
            "start_s": 0.0,
            "end_s": 2.5,
            "label": label_set.name_targets(targets_of(predicted, label_set)),
            **{column: probabilities[:, i] for i, column in enumerate(label_set.columns)},
            "true_label": label_set.name_targets(targets_of(true, label_set)),
            "patient": patients or [f"{100 + i // 2}" for i in range(number)],
            "device": device or ["Meditron"] * number,
            "location": (["Tc", "Al"] * number)[:number],
        }
    )
    table.to_csv(folder / "predictions.csv", index=False)
    if learned:
        raw = np.linspace(0.5, 1.5, 12)
        stored = {"layers": list(range(1, 13)), "raw": raw.tolist(), "normalised": (raw / raw.sum()).tolist()}
        (folder / "layer_weights.json").write_text(json.dumps(stored))
    for epoch, labels in enumerate(by_epoch, start=1):
        if label_set.independent:
            logits = torch.from_numpy(np.where(targets_of(labels, label_set) == 1, 1.0, -1.0))
        else:
            logits = torch.from_numpy(np.log(np.where(np.eye(4)[list(labels)] == 1, 0.7, 0.1)))
        tensors = {"test": epoch_logits.half_logits(logits, independent=label_set.independent)}
        if learned:
            raised = torch.linspace(0.5, 1.5, 12) * epoch ** torch.linspace(0, 1, 12)
            tensors |= {"layers": torch.arange(1, 13), "layer_weights": raised}
        epoch_logits.append_epoch(folder, epoch, tensors)
    (folder / "done").touch()
    return folder


class Page(HTMLParser):
    """Tags of a page: whether they are balanced, what they refer to, and the text of every table row."""

    EMPTY = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.alts: list[str] = []
        self.rows: list[list[str]] = []
        self.headings = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.references += [str(found[name]) for name in ("src", "href", "srcset") if name in found]
        if tag == "img":
            self.alts.append(str(found.get("alt", "")))
        if tag == "th":
            assert found.get("scope") in ("row", "col")
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data

    def row(self, *start: str) -> list[str]:
        """The first table row that begins with these cells."""
        return next(row for row in self.rows if row[: len(start)] == list(start))


LEARNED, VANILLA = "m2d_fusion (all_learned, base)", "m2d_fusion (vanilla, base)"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two seeds of one system, one run of another and two folders that cannot count."""
    root = tmp_path_factory.mktemp("report")
    write_run(root / "runs" / "learned-0", SEED0, validation_scores=(0.6, 0.5, 0.55))
    write_run(root / "runs" / "deep" / "learned-1", SEED1, seed=1, validation_scores=(0.6, 0.5, 0.55))
    write_run(root / "runs" / "vanilla", SEED1, variant="vanilla", select="test_best", device=["A"] * 6 + ["B"] * 4)
    (write_run(root / "runs" / "killed", variant="all_fixed") / "done").unlink()
    (write_run(root / "runs" / "bad", variant="all_fixed") / "config.json").write_text("{")
    assert write_report([root / "runs"], root / "out") == root / "out" / "report.html"
    return root / "out"


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "report.html").read_text())


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_the_mean_over_seeds(page: Page) -> None:
    # seeds: Sp 83.33 and 66.67, Se 50 and 25, Score 66.67 and 45.83
    row = page.row(LEARNED, "2", "last epoch")
    assert [cell.split("\n")[0] for cell in row[5:]] == ["75.00 ± 11.79", "37.50 ± 17.68", "56.25 ± 14.73"]
    low, high = (float(part) for part in row[7].split("\n")[1].strip("[]").split(", "))
    assert low < 56.25 < high
    row = page.row(VANILLA, "1", "best on the test set")
    assert [cell.split("\n")[0] for cell in row[3:]] == ["–", "–", "66.67", "25.00", "45.83"]


def test_what_the_score_hides(out: Path, page: Page) -> None:
    first = next(row for row in records(out / "runs.csv") if row["seed"] == "0" and row["system"] == LEARNED)
    assert float(first["two_class_sensitivity"]) == pytest.approx(0.75)
    assert float(first["two_class_score"]) == pytest.approx((5 / 6 + 0.75) / 2)
    assert float(first["macro_recall"]) == pytest.approx((5 / 6 + 1 / 2 + 0 + 1) / 4)
    assert float(first["ece"]) == pytest.approx(0)  # confidence 0.7 and 7 of 10 right
    assert page.row(LEARNED, "50.00 ± 35.36")[2:4] == ["62.50 ± 23.57", "43.75 ± 20.62"]


def test_every_way_of_choosing_the_epoch_stands_side_by_side(page: Page) -> None:
    # test scores 40, 70, 66.67; validation is best at epoch 1
    row = page.row(LEARNED, "2", "66.67 ± 0.00")
    assert row[3:] == ["40.00 ± 0.00", "70.00 ± 0.00", "3.33 ± 0.00", "30.00 ± 0.00"]
    assert page.row(VANILLA, "1", "66.67")[3:] == ["–", "70.00", "3.33", "–"]


@pytest.mark.usefixtures("blank_pictures")
def test_runs_that_held_patients_out_give_the_validation_column_only(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"last{seed}", seed=seed, test_scores=(0.5, 0.6 + seed / 10, 0.55))
        held_out = tmp_path / f"validation{seed}"
        write_run(
            held_out, seed=seed, select="validation", test_scores=(0.3, 0.2, 0.1), validation_scores=(0.6, 0.5, 0.4)
        )
    write_report([tmp_path], tmp_path / "out")
    rows = [row for row in Page((tmp_path / "out" / "report.html").read_text()).rows if len(row) == 7]
    [row] = [row for row in rows if row[2:5] == ["55.00 ± 0.00", "30.00 ± 0.00", "65.00 ± 7.07"]]
    assert row[0].startswith(LEARNED)
    assert row[5:] == ["10.00 ± 7.07", "35.00 ± 7.07"]


@pytest.mark.usefixtures("blank_pictures")
def test_patients_on_both_sides_are_left_out_in_a_table_of_their_own(tmp_path: Path) -> None:
    patients = ["156"] * 2 + ["101"] * 4 + ["102"] * 4
    write_run(tmp_path / "run", patients=patients, overlap=["156", "218"])
    write_report([tmp_path / "run"], tmp_path / "out")
    # without the two right normals of patient 156: 3 of 4 normals and 2 of 4 abnormals, Score 62.5 instead of 66.67
    rows = [row for row in Page((tmp_path / "out" / "report.html").read_text()).rows if row[-1] == "-4.17"]
    assert [cell.split("\n")[0] for cell in rows[0][1:4]] == ["75.00", "50.00", "62.50"]
    assert "156, 218" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.usefixtures("blank_pictures")
def test_folds_are_pooled_when_all_of_them_are_there(tmp_path: Path) -> None:
    for seed in (0, 1):
        for fold, part in enumerate((slice(0, 5), slice(5, 10))):
            predicted, patients = SEED0[part] if seed == 0 else SEED1[part], [f"p{i}" for i in range(10)][part]
            folder = tmp_path / f"seed{seed}" / f"fold{fold}"
            write_run(folder, predicted, TRUE[part], seed=seed, patients=patients, fold=(fold, 2))
    text = scores_table([tmp_path])
    # all ten cycles of each seed, as if they had been one test set
    assert "75.00 ± 11.79" in text
    assert "56.25 ± 14.73" in text
    assert text.count("| 2 |") == 1
    other = tmp_path / "seed1" / "fold1"
    write_run(tmp_path / "other", SEED1[5:], TRUE[5:], seed=1, fold=(1, 2), data_digest="of another folder")
    (other / "done").unlink()  # its place cannot be taken by a fold of other data
    assert "56.25" not in scores_table([tmp_path])
    (other / "done").touch()
    (tmp_path / "seed1" / "fold1" / "done").unlink()
    text = scores_table([tmp_path])
    assert "66.67" in text
    assert "not the official 60/40 split" in text or "not the whole" in text
    write_report([tmp_path], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "folds, 2 pooled" in text
    assert text.count("Not comparable with published scores") == 1  # of two reasons, in one sentence
    assert text.count("there) (so for ") == 2


def test_paper_tables_keep_all_printed_rows_and_put_ours_beside(out: Path, page: Page) -> None:
    table = records(out / "table2.csv")
    assert len(table) == 13
    assert [row["method"] for row in table if row["ours"]] == ["M2DViT", "M2DViT-Fusion (v)"]
    last = table[-1]
    assert (float(last["printed_score"]), float(last["printed_score_sd"])) == (60.68, 0.49)
    assert (float(last["score"]), last["seeds"], last["comparable"]) == (56.25, "2", "False")
    assert [row["ours"] for row in records(out / "table1.csv")] == ["", VANILLA]  # weights are named mr7
    # rows that were not run are printed beside runs of the whole database only
    assert not [row for row in page.rows if row and row[0] == "RespireNet"]
    assert len([row for row in page.rows if row and row[0].startswith("M2DViT")]) == 3  # of Table 1 and of Table 2


@pytest.mark.usefixtures("blank_pictures")
def test_an_ablation_is_no_row_of_the_paper(tmp_path: Path) -> None:
    write_run(tmp_path / "pair", overrides={"model.layers": [5, 11]}, weights="own-mr7")
    write_run(tmp_path / "short", seed=1, overrides={"train.epochs": 3, "seed": 1})
    write_report([tmp_path], tmp_path / "out")
    rows = [row for row in records(tmp_path / "out" / "table2.csv") if row["ours"]]
    assert [(row["method"], row["seeds"]) for row in rows] == [("M2DViT-Fusion (v)", "1")]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([1, 2, 3, 4, 5], "[1 … 5]"),
        ([1, 2, 3], "[1, 2, 3]"),
        ([1, 2, 4, 5], "[1, 2, 4, 5]"),
        (["a", "b", "c", "d"], "['a', 'b', 'c', 'd']"),
        ([], "[]"),
        ("runs/x/y.safetensors", "x/y.safetensors"),
        ("", "none"),
        ("0123456789abcdef" * 4, "01234567"),
    ],
)
def test_a_setting_is_shown_short(value: object, shown: str) -> None:
    assert show_setting(value) == shown


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    ("options", "overrides", "why"),
    [
        ({"size": "tiny", "frontend": "m2d_clip"}, {}, "size tiny, frontend m2d_clip"),
        ({"size": "tiny", "frontend": "icbhi"}, {}, "size tiny"),
        ({"size": "small", "masks": "paper"}, {}, "size small, masks paper"),
        ({"size": "base"}, {"model.norm_layers": True, "seed": 0}, "model.norm_layers True"),
        ({"size": "base", "frontend": "icbhi", "masks": "code"}, {"train.epochs": 3}, ""),
    ],
)
def test_what_is_no_row_of_the_paper_is_named_with_the_settings(
    tmp_path: Path, options: dict[str, str], overrides: dict[str, Any], why: str
) -> None:
    write_run(tmp_path / "run", options=options, overrides=overrides)
    write_report([tmp_path], tmp_path / "out")
    rows = [row["ours"] for row in records(tmp_path / "out" / "table2.csv") if row["ours"]]
    assert bool(rows) == (not why)
    said = [(tmp_path / "out" / name).read_text() for name in ("report.md", "report.html")]
    for text in (*said, paper_text([tmp_path])):
        found = [line for line in text.splitlines() if "Not a row of the paper: m2d_fusion (all_learned" in line]
        assert [f"({why})." in line for line in found] == [True] * bool(why)


def test_not_every_system_that_is_no_row_is_named(tmp_path: Path) -> None:
    for number in range(1, 8):
        write_run(tmp_path / str(number), overrides={"train.lr": number}, data_digest=str(number))
        config = json.loads((tmp_path / str(number) / "config.json").read_text())
        config["config"]["train"]["lr"] = number
        (tmp_path / str(number) / "config.json").write_text(json.dumps(config))
    (line,) = [line for line in paper_text([tmp_path]).splitlines() if line.startswith("Not a row")]
    assert line.count("train.lr") == 2 * 5
    assert line.endswith("; and 2 others.")


def test_paired_difference_of_systems(page: Page) -> None:
    row = page.row(LEARNED, VANILLA)
    assert [cell.split("\n")[0] for cell in row[2:5]] == ["+8.33", "+12.50", "+10.42"]
    assert 0 < float(row[5]) <= 1
    assert row[6] == row[5]  # of one comparison
    assert float(row[7].replace(",", "")) > 5  # patients


def test_several_comparisons_are_corrected(tmp_path: Path) -> None:
    for name, predicted in (("vanilla", SEED1), ("all_fixed", SEED0), ("pair_5_11", TRUE)):
        write_run(tmp_path / name, predicted, variant=name)
    page = Page(write_report([tmp_path], tmp_path / "out").read_text())
    rows = [row for row in page.rows if len(row) == 8 and row[0].startswith("m2d_fusion (") and "[" in row[4]]
    assert len(rows) == 3
    raw, holm = ([float(row[column]) for row in rows] for column in (5, 6))
    assert min(holm) == pytest.approx(min(3 * min(raw), 1), abs=2e-4)
    assert all(one <= other for one, other in zip(raw, holm, strict=True))


def test_interval_over_patients_and_seeds(page: Page) -> None:
    [row] = [row for row in page.rows if len(row) == 4 and row[:2] == [LEARNED, "2"] and row[2].startswith("56.25 ±")]
    low, high = (float(end) for end in row[3].strip("[]").split(", "))
    assert low < 56.25 < high


def test_settings_of_the_published_code_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", options={"fidelity": "published", "audio.scope": "batch"})
    page = Page(write_report([run], tmp_path / "out").read_text())
    assert page.row("audio.scope") == ["audio.scope", "clip", "batch"]
    assert page.row("train.select") == ["train.select", "last", "last"]
    # beside the same system as we train it, all that differs is named, and nothing else
    twin = write_run(tmp_path / "twin", options={"fidelity": "corrected", "audio.scope": "clip", "audio.rate_hz": "8"})
    page = Page(write_report([run, twin], tmp_path / "both").read_text())
    [start] = [i for i, row in enumerate(page.rows) if row[:1] == ["Setting"]]
    assert page.rows[start + 1 : start + 3] == [["audio.scope", "clip", "batch"], ["audio.rate_hz", "8", "–"]]
    assert page.rows[start + 3][0] != "train.select"


def test_devices(page: Page) -> None:
    assert page.row(VANILLA, "A") == [VANILLA, "A", "6", "0", "3", "66.67", "–", "–"]
    assert page.row(VANILLA, "B") == [VANILLA, "B", "4", "4", "2", "–", "25.00", "–"]
    assert page.row(LEARNED, "Meditron")[2:] == ["10", "4", "5", "75.00", "37.50", "56.25"]


def test_all_normal_line_is_in_every_table_of_scores(page: Page) -> None:
    baselines = [row for row in page.rows if row and row[0] == "every cycle called normal"]
    assert len(baselines) == 9
    assert all("50.00" in row for row in baselines)


def test_page_is_self_contained_and_well_formed(out: Path, page: Page) -> None:
    text = (out / "report.html").read_text()
    assert page.open == []
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in page.references)
    assert len(page.alts) == 10
    assert all(len(alt) > 20 for alt in page.alts)
    assert text.count("Research tool; not a diagnosis.") == 2
    assert (out / "report.md").read_text().count("Research tool; not a diagnosis.") == 2


def test_pictures_are_files_and_named_in_the_markdown(out: Path) -> None:
    pictures = sorted(out.glob("*.png"))
    assert {"sp_se.png", "figure3.png"} < {path.name for path in pictures}
    assert len(pictures) == 10
    markdown = (out / "report.md").read_text()
    for path in pictures:
        assert path.stat().st_size > 1000
        assert path.read_bytes().startswith(b"\x89PNG")
        assert f"]({path.name})" in markdown


def test_part_of_the_database_is_not_ranked(out: Path) -> None:
    text = (out / "report.md").read_text()
    assert "Not comparable with published scores: not the whole ICBHI 2017 database (126 recordings here" in text
    assert "They say nothing about these figures and are not printed." in text
    assert text.lower().count("not comparable") == 1  # rows of tables that are all of other data do not repeat it
    assert "ours: " not in text
    assert "MVST" not in text
    assert "final LayerNorm" in text  # a layer weight is not importance alone


@pytest.mark.usefixtures("blank_pictures")
def test_beside_runs_of_the_whole_database_rows_of_others_say_so(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "run", whole=True), write_run(tmp_path / "part", variant="vanilla")]
    page = Page(write_report(runs, tmp_path / "out").read_text())
    ours = [
        row[-4].endswith("not comparable")
        for row in page.rows
        if row and row[0].startswith("M2DViT") and "seed" in row[-4]
    ]
    assert set(ours) == {False, True}


def test_folders_that_cannot_count_are_named(out: Path) -> None:
    text = (out / "report.md").read_text()
    assert "runs/killed: unfinished (no file `done`)" in text
    assert "runs/bad: config.json: not valid JSON" in text
    assert "3 finished runs of 2 systems, 1 to 2 seeds each; 2 left out" in text


@pytest.mark.usefixtures("blank_pictures")
def test_one_of_something_is_not_counted_in_the_plural(tmp_path: Path) -> None:
    write_report([write_run(tmp_path / "run")], tmp_path / "out")
    assert "1 finished run of 1 system, 1 seed each; 0 left out" in (tmp_path / "out" / "report.md").read_text()


def test_writing_again_gives_the_same_bytes_and_leaves_nothing_behind(out: Path) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_report([out.parent / "runs"], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_second_of_two_in_a_folder_is_told(out: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one")
    with lock_folder(tmp_path / "out"), pytest.raises(ValueError, match="another process is at work there"):
        write_report([tmp_path / "runs"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


@pytest.mark.usefixtures("blank_pictures")
def test_whole_database_takes_its_rank_and_text_is_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", whole=True)
    record = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(record | {"command": "rales train <script>alert(1)</script>"}))
    text = write_report([run], tmp_path / "out").read_text()
    # 66.67 is above all printed Scores of the official split; MVST's 66.55 and Dong's 67.55 are of another
    row = Page(text).row(f"ours: {LEARNED}")
    weights = "m2d_vit_base-80x608p16x16-221006-mr7"
    assert row[1:] == ["(1)", "–", weights, "83.33", "50.00", "66.67", "official", "last", "–"]
    assert Page(text).row("RespireNet")[2:] == ["72.30", "40.10", "56.20", "not run", "–", "–", "–"]
    assert "Not comparable" not in text
    assert "<script>" not in text


def test_single_run_without_predictions(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", select="test_best")
    (run / "predictions.csv").unlink()
    page = Page(write_report([run], tmp_path / "out").read_text())
    assert page.row(LEARNED, "1", "best on the test set")[3:] == ["70.00", "70.00", "70.00"]
    assert page.row(LEARNED, "–", "–")[1:] == ["–"] * 9
    assert "no predictions.csv" in (tmp_path / "out" / "report.md").read_text()
    assert not list((tmp_path / "out").glob("confusion*"))


def spoil_json(**changes: Any) -> Any:
    def spoil(run: Path) -> None:
        record = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(record | changes))

    return spoil


def spoil_table(**changes: Any) -> Any:
    def spoil(run: Path) -> None:
        table = pd.read_csv(run / "predictions.csv")
        table.assign(**changes).to_csv(run / "predictions.csv", index=False)

    return spoil


def cut(name: str, keep: float = 0.6) -> Any:
    def spoil(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: int(len(content) * keep)])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: (run / "done").unlink(), "unfinished"),
        (lambda run: (run / "config.json").unlink(), "config.json: no such file"),
        (cut("config.json"), "config.json: not valid JSON"),
        (spoil_json(config=[]), "config.json: config is a list, expected an object"),
        (spoil_json(split="official"), "config.json: split is text, expected an object"),
        (spoil_json(classes=["healthy", "ill"]), "its classes are ['healthy', 'ill']"),
        (spoil_json(config={"train": {"select": "luck"}}), "train.select is 'luck'"),
        (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl is missing"),
        (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\n"), "utf-8"),
        (cut("metrics.jsonl"), "metrics.jsonl is damaged after 4 lines"),
        (lambda run: (run / "predictions.csv").write_text(""), "No columns"),
        (lambda run: (run / "predictions.csv").write_text("recording\n"), "no column cycle"),
        (cut("predictions.csv"), "predictions.csv"),
        (spoil_table(true_label="rhonchus"), "line 2: true_label is 'rhonchus'"),
        (spoil_table(p_both=9.0), "predictions.csv: probabilities of cycle 0"),
        (cut("layer_weights.json"), "layer_weights.json: not valid JSON"),
        (lambda run: (run / "layer_weights.json").write_text('{"layers": [1]}'), "one normalised weight"),
        (
            lambda run: (run / "layer_weights.json").write_text('{"layers": [1, 2], "normalised": [0.5, null]}'),
            "sum to 0.500",
        ),
    ],
)
def test_a_broken_run_is_one_sentence_and_the_others_count(tmp_path: Path, spoil: Any, reason: str) -> None:
    write_run(tmp_path / "good", SEED0)
    spoil(write_run(tmp_path / "spoilt", SEED1, seed=1))
    text = scores_table([tmp_path])
    assert f"| {LEARNED} | 1 | last epoch | 83.33" in text
    assert f"{tmp_path / 'spoilt'}: " in text
    assert reason in text.split("Left out")[1]


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (write_run(tmp_path / "run") / "done").unlink()
    with pytest.raises(ValueError, match=r"no finished run to report on .*unfinished"):
        write_report([tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="no such folder"):
        scores_table([tmp_path / "nowhere"])
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rales.optional_packages.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'^a report needs the package jinja2, .* pip install "rales\[report\]"$'):
        write_report([write_run(tmp_path / "run")], tmp_path / "out")


def test_same_seed_twice_counts_once_and_same_folder_is_read_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", SEED0)
    write_run(tmp_path / "b", SEED0)
    text = scores_table([tmp_path, tmp_path / "a"])
    assert f"| {LEARNED} | 1 |" in text
    assert f"{tmp_path / 'b'}: the same system and seed as {tmp_path / 'a'}" in text


def test_an_own_recipe_is_the_same_wherever_its_file_lies(tmp_path: Path) -> None:
    """And another one where the file holds something else."""
    for name, place, digest in (("a", "here", "ab"), ("b", "there", "ab"), ("c", "here", "cd")):
        file = write_run(tmp_path / name, SEED0) / "config.json"
        record = json.loads(file.read_text())
        record["recipe_source"] = {"file": f"{place}/own.py", "name": "mine", "sha256": digest}
        file.write_text(json.dumps(record))
    text = scores_table([tmp_path])
    assert f"{tmp_path / 'b'}: the same system and seed as {tmp_path / 'a'}" in text
    assert f"{tmp_path / 'c'}: " not in text


def test_other_settings_are_another_system(tmp_path: Path) -> None:
    for ratio in ("mr6", "mr7"):
        write_run(tmp_path / ratio, variant="vanilla", weights=f"m2d_vit_base-80x608p16x16-221006-{ratio}")
    text = scores_table([tmp_path])
    assert f"| {VANILLA}, weights=m2d_vit_base-80x608p16x16-221006-mr6 | 1 |" in text
    assert f"| {VANILLA}, weights=m2d_vit_base-80x608p16x16-221006-mr7 | 1 |" in text


def test_disagreeing_files_are_noted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", test_scores=(0.4, 0.9))
    (run / "evaluation.json").write_text(json.dumps({"score": 0.5}))
    [found], _ = load_runs.read_runs([run])
    assert load_runs.run_notes(found) == [
        "evaluation.json: has no usable `specificity`; the file is damaged or was changed by hand",
        "predictions.csv gives Score 66.67, metrics.jsonl 90.00 (epoch 2)",
        "predictions.csv gives Score 66.67, evaluation.json 50.00",
    ]


def test_printed_scores_are_means_of_their_parts() -> None:
    rows = literature.paper_rows(literature.TABLE1) + literature.paper_rows(literature.TABLE2)
    figures = [[float(text.split()[0]) for text in row.printed] for row in rows]
    figures += [list(e[3:6]) for e in literature.read_leaderboard() if not np.isnan(e.specificity)]
    assert len(figures) == 2 + 13 + 42
    for sp, se, score in figures:  # the paper's row (iv) is off by 0.055 as printed, all others by rounding
        assert (sp + se) / 2 == pytest.approx(score, abs=0.0151 if score != 59.97 else 0.06)
    board = [entry.score for entry in literature.read_leaderboard()]
    assert board == sorted(board, reverse=True)
    assert {entry.selection for entry in literature.read_leaderboard()} <= set(literature.SELECTIONS)


def test_systems_are_told_apart_by_what_was_set() -> None:
    def trained(depth: int, **overrides: int) -> list[Run]:
        config = {"model.depth": depth, "model.layers": [depth]}  # the layers followed from the depth
        named = SimpleNamespace(recipe="beats_pafa", config=config, record={}, split={}, overrides=overrides)
        return [cast(Run, named)]

    assert name_systems([trained(1, **{"model.depth": 1}), trained(12)]) == [
        "beats_pafa, model.depth=1",
        "beats_pafa, model.depth=12",
    ]
    assert name_systems([trained(1), trained(12)])[0] == "beats_pafa, model.depth=1, model.layers=[1]"


def test_a_faithful_system_is_named_so() -> None:
    options, words = {"variant": "vanilla", "size": "tiny"}, ("corrected", "original", "published")
    made = [SimpleNamespace(recipe="m2d_fusion", config=options, record={})]
    made += [SimpleNamespace(recipe="m2d_fusion", config=options | {"fidelity": word}, record={}) for word in words]
    assert [plain_name(cast(Run, run)) for run in made] == [
        "m2d_fusion (vanilla, tiny)",
        "m2d_fusion (vanilla, tiny)",
        "m2d_fusion (vanilla, tiny, original)",
        "m2d_fusion (vanilla, tiny, published)",
    ]


# One glance, and the mistakes


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(50.1, 70, "Better than"), (30, 49.9, "Worse than"), (50, 70, "Not told apart"), (np.nan, np.nan, "Above")],
)
def test_the_verdict_follows_the_interval(low: float, high: float, verdict: str) -> None:
    said = headline.verdict_on(60.0, low, high, "every cycle called normal")
    assert said.startswith(verdict)
    assert "every cycle called normal (50.0)" in said


@pytest.mark.usefixtures("blank_pictures")
def test_a_choice_on_the_test_set_is_no_honest_figure(tmp_path: Path) -> None:
    """The run kept its best epoch on the test set, Score 66.67; its last one has 45.83."""
    write_run(tmp_path / "run", SEED0, select="test_best", test_scores=(0.66667, 0.45833), by_epoch=(SEED0, SEED1))
    text = read_report(write_report([tmp_path / "run"], tmp_path / "out").parent)
    assert "**Best honest figure: m2d_fusion (all_learned, base), last epoch: Score 45.8** (95 % interval " in text
    write_run(tmp_path / "other", SEED1, variant="vanilla")
    found = headline.find_headline(load_systems(tmp_path))  # of two without validation patients the test cycles choose
    assert not found.honest


@pytest.mark.parametrize("facts", [{"name": "leaky_cycles"}, {"test_recordings_heard": 3}])
def test_a_figure_of_test_patients_who_train_is_no_honest_one(tmp_path: Path, facts: dict[str, Any]) -> None:
    write_run(tmp_path / "run", SEED0)
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"split": record["split"] | facts}))
    [system] = load_systems(tmp_path)
    assert not headline.find_headline([system]).honest
    assert f"Highest figure, {system.heard_test}: " in str(headline.headline_blocks([system])[0])
    assert system.name.startswith("leaky: ") == ("name" in facts)


def test_each_patient_has_a_row_the_worst_first(page: Page) -> None:
    """Cycles 2i and 2i + 1 are of patient 100 + i, and both seeds count."""
    [start] = [i for i, row in enumerate(page.rows) if row[:2] == ["Patient", "Device"]]
    assert page.rows[start + 1 : start + 6] == [
        ["102", "Meditron", "2", "0", "25.00", "25.00", "–"],
        ["104", "Meditron", "2", "2", "25.00", "–", "25.00"],
        ["103", "Meditron", "2", "2", "50.00", "–", "50.00"],
        ["100", "Meditron", "2", "0", "100.00", "100.00", "–"],
        ["101", "Meditron", "2", "0", "100.00", "100.00", "–"],
    ]


def test_mistakes_are_ranked_by_the_probability_of_the_truth(tmp_path: Path) -> None:
    write_run(tmp_path / "0", SEED0)
    write_run(tmp_path / "1", SEED1, seed=1, confidence=0.4)
    [system] = load_systems(tmp_path)
    assert system.cycles is not None
    found = worst_cycles.rank_mistakes(system.cycles, ICBHI)
    # wrong under both seeds: cycles 5, 7 and 8; one of two, as cycles 4 and 9, is not most
    assert found["recording"].tolist() == ["r2", "r3", "r4"]
    assert found["cycle"].tolist() == [1, 1, 0]
    assert found["label"].tolist() == ["crackle", "normal", "normal"]
    assert found["of_truth"].tolist() == pytest.approx([(0.1 + 0.2) / 2] * 3)

    independent = LabelSet(("crackle", "wheeze"), independent=True)
    found_probabilities = worst_cycles.truth_probability(np.array([[1, 0]]), np.array([[0.9, 0.7]]), independent)
    assert found_probabilities.tolist() == pytest.approx([0.3])


def test_a_mistake_is_seen_and_heard(tmp_path: Path) -> None:
    """A tone of 1 kHz from 1 s to 3.5 s of a quiet recording."""
    time_s = np.arange(40000) / 10000
    tone = 0.001 * np.sin(2 * np.pi * 1000 * time_s)
    soundfile.write(tmp_path / "r2.wav", np.where((time_s >= 1) & (time_s < 3.5), tone, 0), 10000)
    found = worst_cycles.make_clip(tmp_path / "r2.wav", 1.0, 3.5)
    assert found is not None
    wave, rate_hz = soundfile.read(io.BytesIO(found.flac))
    assert (rate_hz, len(wave)) == (8000, 20000)
    assert np.abs(wave).max() == pytest.approx(0.9, abs=0.001)
    picture = np.asarray(Image.open(io.BytesIO(found.png)))
    brightest = picture.shape[0] - 1 - picture[:, 20].argmax()  # rows from the bottom, which is 60 Hz, of 31.25 Hz each
    assert 62.5 + 31.25 * brightest == pytest.approx(1000, abs=16)
    assert worst_cycles.make_clip(tmp_path / "gone.wav", 1.0, 3.5) is None

    write_run(tmp_path / "run", SEED1)
    [system] = load_systems(tmp_path / "run")
    gallery = worst_cycles.worst_cycles(system, {"r2": tmp_path / "r2.wav"})
    assert gallery is not None
    assert [clip is not None for clip in gallery.clips] == [True, True, False, False, False]  # r2 has cycles 0 and 1
    text = render_html("", [], [Section("a", "b", [gallery])])
    assert Page(text).open == []
    assert text.count("<audio controls preload") == 2
    assert "The sound of 3 of them is not in the data given." in text


# Which system comes first


def write_pair(root: Path) -> None:
    """A system that the validation patients like and the test cycles do not (45.83), and another way round (66.67)."""
    words: dict[str, Any] = {"select": "validation", "validation_scores": (0.5, 0.4, 0.4)}
    for seed in (0, 1):
        write_run(root / f"a{seed}", SEED1, seed=seed, validation_aurocs=(0.6, 0.9, 0.7), **words)
        write_run(root / f"b{seed}", SEED0, seed=seed, variant="vanilla", validation_aurocs=(0.5, 0.6, 0.7), **words)
    for run in root.iterdir():
        record = json.loads((run / "config.json").read_text())
        record["config"]["train"]["select_by"] = "auroc"
        (run / "config.json").write_text(json.dumps(record))


@pytest.mark.usefixtures("blank_pictures")
def test_systems_are_ranked_by_the_validation_patients(tmp_path: Path) -> None:
    write_pair(tmp_path / "runs")
    write_report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"Best on the validation patients: {LEARNED}" in text
    assert "mean AUROC of crackles and wheezes present 0.900 ± 0.000 there and Score 45.83" in text
    assert "Highest mean Score on the test" not in text
    rows = [row for row in Page((tmp_path / "out" / "report.html").read_text()).rows if len(row) == 8]
    assert [(row[0], *row[3:5]) for row in rows if row[2] == "best on validation patients"] == [
        (LEARNED, "0.900 ± 0.000", "40.00 ± 0.00"),
        (VANILLA, "0.700 ± 0.000", "40.00 ± 0.00"),
    ]
    table = records(tmp_path / "out" / "runs.csv")
    assert [(row["system"], row["seed"], row["validation_auroc"], row["selected_epoch"]) for row in table] == [
        *((LEARNED, seed, "0.9", "2") for seed in "01"),
        *((VANILLA, seed, "0.7", "3") for seed in "01"),
    ]
    assert {row["validation_score"] for row in table} == {"0.4"}
    found = rank_systems([tmp_path / "runs"])
    assert [row["system"] for row in found["systems"]] == [LEARNED, VANILLA]
    assert "on the validation patients" in found["order"]


def test_the_score_of_the_validation_patients_ranks_if_it_chose_the_epochs(tmp_path: Path) -> None:
    for variant, score, auroc in (("all_learned", 0.6, 0.5), ("vanilla", 0.5, 0.9)):
        words: dict[str, Any] = {"validation_scores": [score] * 3, "validation_aurocs": [auroc] * 3}
        write_run(tmp_path / variant, variant=variant, select="validation", **words)  # of before train.select_by
    assert [row["system"] for row in rank_systems([tmp_path])["systems"]] == [LEARNED, VANILLA]
    assert {row["ranked_by"] for row in rank_systems([tmp_path])["systems"]} == {"validation_score"}


@pytest.mark.usefixtures("blank_pictures")
def test_a_ranking_by_test_is_called_one(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", SEED1)
    write_run(tmp_path / "runs" / "b", SEED0, variant="vanilla")
    write_report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"(ranked by test, so optimistic for whichever comes first): {VANILLA}, Score 66.67" in text
    assert "a ranking by test" in scores_table([tmp_path / "runs"])
    assert {row["ranked_by"] for row in rank_systems([tmp_path / "runs"])["systems"]} == {"test_score"}
    write_pair(tmp_path / "mixed")
    write_run(tmp_path / "mixed" / "c", SEED0, variant="all_fixed")
    found = rank_systems([tmp_path / "mixed"])
    assert [row["ranked_by"] for row in found["systems"]] == ["validation_auroc"] * 2 + ["test_score"]
    assert "Those without validation patients follow" in found["order"]


@pytest.mark.usefixtures("blank_pictures")
def test_weights_that_call_one_class_only_are_a_warning(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [0] * 10)
    write_report([tmp_path / "run"], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"> **The kept weights call every test cycle the same in 1 run: {tmp_path / 'run'} (normal)." in text
    assert rank_systems([tmp_path])["systems"][0]["constant_predictions"] == ["normal"]


# One run, every protocol

ALL_NORMAL, PERFECT = [0] * 10, TRUE


@pytest.mark.usefixtures("blank_pictures")
def test_one_run_gives_every_protocol_with_its_interval(tmp_path: Path) -> None:
    """Scores by epoch: 50, 100, 45.83, …; the run kept the last."""
    by_epoch = [ALL_NORMAL, PERFECT, SEED1, SEED1, SEED1, SEED1, SEED1, SEED0]
    scores = [0.5, 1.0, *[11 / 24] * 5, 2 / 3]
    patients = [f"p{i % 5}" for i in range(10)]
    for seed in (0, 1):
        write_run(
            tmp_path / "runs" / f"{seed}", SEED0, seed=seed, test_scores=scores, by_epoch=by_epoch, patients=patients
        )
    write_report([tmp_path / "runs"], tmp_path / "out")
    page = Page((tmp_path / "out" / "report.html").read_text())
    found = {
        words: [cell.split("\n") for cell in page.row(LEARNED, "all training patients", words)[4:]]
        for words in (
            "last epoch",
            "best on the test set",
            "mean of the last 2 epochs",
            "probabilities of the last 2 epochs averaged",
        )
    }
    assert [cell[0] for cell in found["last epoch"]] == ["83.33 ± 0.00", "50.00 ± 0.00", "66.67 ± 0.00"]
    assert [cell[0] for cell in found["best on the test set"]] == ["100.00 ± 0.00"] * 3
    # means of (66.67, 83.33), (25, 50), (45.83, 66.67)
    assert [cell[0] for cell in found["mean of the last 2 epochs"]] == ["75.00 ± 0.00", "37.50 ± 0.00", "56.25 ± 0.00"]
    assert all(len(cell) == 2 for cells in found.values() for cell in cells)  # an interval each
    low, high = (float(end) for end in found["last epoch"][2][1].strip("[]").split(", "))
    assert low < 66.67 < high
    gaps = [row for row in page.rows if row[:2] == [LEARNED, "2"] and row[2].startswith("+")]
    assert [cell.split("\n")[0] for cell in gaps[0][2:]] == ["+16.67", "+50.00", "+33.33"]


@pytest.mark.usefixtures("blank_pictures")
def test_the_paper_is_compared_under_its_own_protocol(tmp_path: Path) -> None:
    write_run(tmp_path / "run", SEED0, test_scores=[1.0, 2 / 3], by_epoch=[PERFECT, SEED0])
    write_report([tmp_path / "run"], tmp_path / "out")
    rows = [row for row in records(tmp_path / "out" / "table2.csv") if row["ours"]]
    assert [(row["select"], row["score"]) for row in rows] == [("test_best", "100.0"), ("last", "66.6667")]
    assert float(rows[1]["score_low"]) < 66.67 < float(rows[1]["score_high"])
    assert (tmp_path / "out" / "figure3_epochs.png").exists()
    alts = " ".join(Page((tmp_path / "out" / "report.html").read_text()).alts)
    assert "epoch used: last epoch: largest at layer 12" in alts
    assert "best on the test set: largest at layer 12" in alts


@pytest.mark.usefixtures("blank_pictures")
def test_folds_are_pooled_under_every_protocol(tmp_path: Path) -> None:
    for fold, part in enumerate((slice(0, 5), slice(5, 10))):
        patients = [f"p{i}" for i in range(10)][part]
        by_epoch, scores = [PERFECT[part], SEED0[part]], [1.0, 0.5]
        folder = tmp_path / "runs" / f"fold{fold}"
        words: dict[str, Any] = {"patients": patients, "test_scores": scores, "by_epoch": by_epoch}
        write_run(folder, SEED0[part], TRUE[part], fold=(fold, 2), **words)
    write_report([tmp_path / "runs"], tmp_path / "out")
    page = Page((tmp_path / "out" / "report.html").read_text())
    rows = {row[2]: row[6].split("\n")[0] for row in page.rows if len(row) == 7 and row[1] == "all training patients"}
    assert rows == {"last epoch": "66.67", "best on the test set": "100.00"}


def test_epochs_that_are_not_those_of_the_lines_are_noted(tmp_path: Path) -> None:
    write_run(tmp_path / "run", SEED0, test_scores=[0.9, 2 / 3], by_epoch=[PERFECT, SEED0])
    [found], _ = load_runs.read_runs([tmp_path / "run"])
    assert "epochs.safetensors and metrics.jsonl differ in the test figures of epoch 1" in load_runs.run_notes(found)


def test_epochs_of_other_cycles_are_no_run(tmp_path: Path) -> None:
    write_run(tmp_path / "good", SEED0)
    write_run(tmp_path / "bad", SEED0, seed=1, test_scores=[1.0], by_epoch=[PERFECT[:5]])
    assert "epochs.safetensors holds 5 test cycles, predictions.csv 10" in scores_table([tmp_path])


# The leaderboard


def test_every_published_row_says_split_selection_and_evidence() -> None:
    board = literature.read_leaderboard()
    assert len(board) >= 40
    literature.check_leaderboard(board)
    first = board[0]
    broken = [first._replace(split=""), first._replace(selection=""), first._replace(evidence="")]
    for entry in [*broken, first._replace(split="60/40")]:
        with pytest.raises(ValueError, match=f"leaderboard, {re.escape(first.method)}: "):
            literature.check_leaderboard([entry])
    assert all("2nd" in e.evidence for e in board if e.split == "?")
    read = [entry for entry in board if entry.split == "official"]
    assert all(entry.code and any(mark in entry.evidence for mark in (":", "diff", "M2D-X")) for entry in read)


def test_the_leaderboard_document_is_that_of_the_table() -> None:
    document = write_leaderboard.FILE.read_text()
    assert document == write_leaderboard.leaderboard_text(), "run python scripts/write_leaderboard.py"
    official, apart = document.split("## Other splits, other tasks")
    for entry in literature.read_leaderboard():
        assert (f"| {entry.method} |" in official) == entry.is_ranked
        assert (f"| {entry.method} |" in apart) == (not entry.is_ranked)
    assert all(f"| {row[0]} |" in apart for row in literature.read_measured())


@pytest.mark.usefixtures("blank_pictures")
def test_other_splits_and_other_tasks_are_not_ranked(tmp_path: Path) -> None:
    page = Page(write_report([write_run(tmp_path / "run", whole=True)], tmp_path / "out").read_text())
    ranked = [row[0] for row in page.rows if len(row) == 10 and row[1].strip("()").isdigit()]
    assert ranked[1:4] == ["PC-MCL (2026)", "PAFA (2025)", "Lung-SRAD (2026)"]
    apart = {row[0]: row for row in page.rows if len(row) == 9}
    for name in ("Dong, multi-view AST + time domain (2025)", "MVST (2024)", "ADD-RSC (2025)"):
        assert name not in ranked
        assert apart[name][5] == "recordings at random"
    for name in ("BTS (2024)", "BTS++, k = 30 (2025)", "Resp-Agent (2026)", "SoftFiLM-AST (2026)"):
        assert name not in ranked
        assert apart[name][7] != "–"
    physicians = [row for row in page.rows if row and row[0] == literature.PHYSICIANS[0]]  # beside the all-normal line
    assert [row[-3:] for row in physicians[:1]] + [row[4:7] for row in physicians[1:]] == [
        ["72.30", "23.20", "47.80"]
    ] * 2
    text = (tmp_path / "out" / "report.md").read_text()
    assert "60/40 split**" not in text
    assert "M2D p16x4 (AudioSet) | 59.38 ± 0.94" in text


def test_a_layer_search_of_the_whole_database_names_published_frozen_probes() -> None:
    [line] = result_lines.frozen_probe_lines(["Only recordings of the train split took part."])
    assert "second-hand: M2D p16x4 (AudioSet) 59.38 ± 0.94; BEATs 57.31 ± 1.40;" in line
    assert result_lines.frozen_probe_lines(["Not the whole ICBHI 2017 database."]) == []


# Pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn from here on."""
    found, write = list[Figure](), plots.render_png

    def png(figure: Figure) -> bytes:
        found.append(figure)
        return write(figure)

    monkeypatch.setattr(plots, "render_png", png)
    return found


def test_pictures_show_what_their_captions_say(tmp_path: Path, drawn: list[Figure]) -> None:
    write_run(tmp_path / "low", [1, 1, 1, 1, 0, 0, 0, 0, 2, 0])
    write_report([tmp_path / "low"], tmp_path / "out")
    plane = next(figure.axes[0] for figure in drawn if "Specificity" in figure.axes[0].get_xlabel())
    (low, high), (bottom, top) = plane.get_xlim(), plane.get_ylim()
    normal = next(line for line in plane.lines if str(line.get_label()).startswith("every cycle called normal"))
    assert (normal.get_xdata()[0], normal.get_ydata()[0]) == (100, 0)  # type: ignore[index]
    for x, y in [(100, 0), *(text.get_position() for text in plane.texts), *(text.xy for text in plane.texts)]:  # type: ignore[attr-defined]
        assert low <= x <= high
        assert bottom <= y <= top


def test_long_names_of_systems_stay_in_the_picture(tmp_path: Path, drawn: list[Figure]) -> None:
    """As of models that others started from; a bare warning of the drawing is an error here."""
    for name in "abc":
        config = {"from_model": f"{name * 30}/{name * 70}", "from_digest": name * 64, "freeze": name * 40}
        write_run(tmp_path / name, options=config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report([tmp_path / name for name in "abc"], tmp_path / "out")
    figure = next(figure for figure in drawn if "Specificity" in figure.axes[0].get_xlabel())
    (legend,) = figure.legends
    box, plane, page = legend.get_window_extent(), figure.axes[0].get_window_extent(), figure.bbox
    assert (box.x0 >= 0, box.x1 <= page.x1, box.y0 >= -1, box.y1 < plane.y0) == (True,) * 4
    assert plane.width > 0.6 * page.width
    titles = [axes.title for figure in drawn for axes in figure.axes if axes.get_title()]
    assert all(title.get_window_extent().x0 >= 0 for title in titles)


def test_no_legend_covers_a_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    write_report([write_run(tmp_path / "run", by_epoch=[SEED0] * 3)], tmp_path / "out")
    by_epoch = [figure for figure in drawn if figure.axes[0].get_xlabel() == "Epoch"]
    assert len(by_epoch) == 3  # loss, score, layer weights
    for figure in by_epoch:
        legend = figure.axes[0].get_legend()
        assert legend is not None
        assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0


@pytest.mark.usefixtures("blank_pictures")
def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"old\xeb")
    write_run(folder / "a")
    text = write_report([folder], tmp_path / "out").with_suffix(".md").read_text(encoding="utf-8")
    assert f"{tmp_path}/old\\xeb/" in text


# Own classes

OWN = LabelSet(("healthy", "rhonchi", "stridor"))
MANY = LabelSet(("no abnormal sound", *(f"finding of a long name {number}" for number in range(1, 20))))
FINDINGS = LabelSet(("crackle", "wheeze", "stridor"), independent=True)
# 2 of 3 healthy, 3 of 4 abnormal right: Sp 66.67, Se 75.00, Score 70.83
OWN_TRUE, OWN_PREDICTED = [0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2, 0]


def read_report(folder: Path) -> str:
    return (folder / "report.md").read_text()


@pytest.mark.usefixtures("blank_pictures")
def test_figures_of_three_own_classes(tmp_path: Path) -> None:
    """Tables name them, and nothing that is ICBHI's stands beside them, even on its whole database."""
    for seed in (0, 1):
        folder = tmp_path / "runs" / str(seed)
        write_run(folder, OWN_PREDICTED, OWN_TRUE, seed=seed, label_set=OWN, whole=True)
    write_report([tmp_path / "runs"], tmp_path / "out")
    text = read_report(tmp_path / "out")
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert runs["score"].tolist() == pytest.approx([17 / 24] * 2)
    assert runs["macro_recall"].tolist() == pytest.approx([(2 / 3 + 1 + 1 / 2) / 3] * 2)
    # stridor: one of two has 0.7, all others 0.15, of five without it none more
    assert runs["auroc_stridor"].tolist() == pytest.approx([0.75] * 2)
    assert "| m2d_fusion (all_learned, base) | rhonchi | 2 | 100.00 | 66.67 |" in text
    assert "| m2d_fusion (all_learned, base) | stridor | 2 | 50.00 | 100.00 |" in text
    assert "| every cycle called healthy | 0.00 | 50.00 | 33.33 |" in text
    assert "- Classes: healthy, rhonchi, stridor" in text
    assert "Not comparable with published scores: other classes than the four of ICBHI 2017." in text
    assert "healthy 67 %; rhonchi 100 %; stridor 50 %" in text
    assert not [
        word
        for word in ("crackle", "wheeze", "hysician", "leaderboard", "Tables 1 and 2", "called normal")
        if word in text
    ]
    assert "2 seeds each" in text


def test_twenty_classes_of_long_names_fit(tmp_path: Path) -> None:
    true = [*range(20)] * 2
    write_run(tmp_path / "run", [(number * 7) % 20 for number in true], true, label_set=MANY)
    write_report([tmp_path / "run"], tmp_path / "out")
    text = read_report(tmp_path / "out")
    assert all(name in text for name in MANY.classes)
    (system,) = load_systems(tmp_path / "run")
    picture = plots.plot_confusion(system, "x")
    assert picture is not None
    across, down = (int.from_bytes(picture.png[at : at + 4], "big") / 130 for at in (16, 20))
    assert (across, down) == pytest.approx((13.45, 12.45), abs=0.02)  # half an inch a class, and the names beside them
    rows = [
        line for line in text.splitlines() if line.startswith("| m2d_fusion (all_learned, base) | finding of a long")
    ]
    assert len(rows) == 19


def test_independent_classes_are_strictly_right_or_not(tmp_path: Path) -> None:
    # none, none, crackle, crackle + wheeze, stridor: right are the first, third and last; Sp 50, Se 66.67
    write_run(tmp_path / "run", [0, 1, 1, 1, 4], [0, 0, 1, 3, 4], label_set=FINDINGS, by_epoch=[[0, 0, 1, 3, 4]])
    write_report([tmp_path / "run"], tmp_path / "out")
    text, runs = read_report(tmp_path / "out"), pd.read_csv(tmp_path / "out" / "runs.csv")
    assert runs[["specificity", "sensitivity", "two_class_sensitivity"]].to_numpy().ravel() == pytest.approx(
        [1 / 2, 2 / 3, 1]
    )
    assert "- Classes: crackle, wheeze, stridor (independent of one another)" in text
    assert "| m2d_fusion (all_learned, base) | crackle | 2 | 100.00 | 66.67 |" in text
    assert "| m2d_fusion (all_learned, base) | wheeze | 1 | 0.00 | – |" in text
    assert "crackle 100 %; wheeze 0 %; stridor 100 %" in text
    assert "| every cycle called normal | 0.00 | 50.00 | 0.00 |" in text
    # of 15 answers, each 0.7 sure, two are wrong: |13 / 15 - 0.7|
    assert "Reliability of the answers to each class" in text
    assert float(runs["ece"].iloc[0]) == pytest.approx(abs(13 / 15 - 0.7), abs=1e-6)


@pytest.mark.usefixtures("blank_pictures")
def test_runs_of_different_label_sets_share_nothing(tmp_path: Path) -> None:
    """The same recipe, settings, seed and split: two systems, in sections of their own."""
    write_run(tmp_path / "runs" / "own", OWN_PREDICTED, OWN_TRUE, label_set=OWN)
    write_run(tmp_path / "runs" / "icbhi")
    write_report([tmp_path / "runs"], tmp_path / "out")
    text = read_report(tmp_path / "out")
    assert "0 left out" in text
    assert "These runs tell 2 sets of classes apart." in text
    assert text.index("## Label set 1: normal, crackle, wheeze, both") < text.index("## Label set 2: healthy, rhonchi")
    assert [text.count(heading) for heading in ("## Scores", "## Scores (2)", "## Published leaderboard")] == [2, 1, 0]
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"sp_se.png", "set2-sp_se.png"} <= pictures
    assert all(f"({name})" in text for name in pictures)
    runs = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("folder")["score"]
    assert runs.tolist() == pytest.approx([2 / 3, 17 / 24])
    ranked = rank_systems([tmp_path / "runs"])["systems"]
    assert [row.get("classes") for row in ranked] == [None, list(OWN.classes)]
    assert scores_table([tmp_path / "runs"]).count("Specificity, sensitivity and Score") == 2
    assert "rhonchi" not in paper_text([tmp_path / "runs"])
    assert "none stands beside the paper" in paper_text([tmp_path / "runs" / "own"])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: text.replace("rhonchi,0", "wheeze,0"), "line 4: label is 'wheeze', not a class"),
        (lambda text: text.replace("p_rhonchi", "p_wheeze"), "has no column p_rhonchi"),
        (lambda text: text.replace("0.7", "0.9"), "that sum to 1"),
    ],
)
def test_damaged_predictions_of_own_classes(tmp_path: Path, damage: Any, sentence: str) -> None:
    write_run(tmp_path / "run", OWN_PREDICTED, OWN_TRUE, label_set=OWN)
    file = tmp_path / "run" / "predictions.csv"
    file.write_text(damage(file.read_text()))
    with pytest.raises(ValueError, match=sentence):
        load_runs.read_run(tmp_path / "run")


def load_systems(folder: Path) -> list[System]:
    return group_into_systems(load_runs.read_runs([folder])[0])
