"""The two models that ship, `rales` and `rales-mn04`: how they are made, from folders of recordings to the files.

`rales` is a small ViT of our own. It first learns to hear as mn04 (EfficientAT, trained on AudioSet) does: it is taught
the leading principal components of what mn04 makes of each clip, of all train-side sound of ICBHI and SPRSound and of
breaths with simulated events laid over them, without a label. What it hears is turned in time, gained and cut in
frequency as by another stethoscope; the teacher hears the clip as it is. Then all its layers are fused (eq. 1), pooled
(eq. 2) and the whole is trained on the labelled cycles of both train sides and on the overlaid breaths.

`rales-mn04` is mn04 itself, frozen, at two speeds, with layer weights and a head trained on the same cycles; the file
holds what is ours, without mn04's tensors.

Temperature, thresholds, sets of labels and answers per recording of both come from cycles of patients that the
classifier had not seen: five folds of ICBHI's train-side patients, one classifier each. What ships is trained on all of
them. ICBHI's test side is scored once, at the end.

    python scripts/make_models.py ICBHI_final_database SPRSound --teacher mn04_as --out runs/models
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor, nn

from rales.audio.io import read_audio_info
from rales.cli.result_lines import figure_lines
from rales.data import read_cycles, splits
from rales.data.waveform_cache import Preparation, cached_arrays, read_cycle_waveform
from rales.export.build import export_model
from rales.files.atomic import lock_folder
from rales.labels import CLASSES
from rales.models import borrowed_encoder
from rales.models.classifier import FusionClassifier
from rales.models.hub import find_checkpoint, sha256_of
from rales.models.m2d_checkpoints import read_safetensors
from rales.recipes import m2d_fusion
from rales.recipes.registry import make_recipe
from rales.settings import format_value, set_fields
from rales.synthesis.event_mixing import mix_events_into_cycles
from rales.training import run_folder
from rales.training.calibration_record import fit_calibration_record
from rales.training.recipe import LossContext, Recipe
from rales.training.teachers import PooledMobileNet, load_pooled_mobilenet

FOLDS = 5
ORIGIN = "patients of ICBHI's train side, each of a fold that left them out"
TEACHER = "mn04_as"  # its public name
COMPONENTS = 256  # of the teacher's vectors that are taught
VARIANTS = {"icbhi": 3, "sprsound": 1}  # overlaid copies of the normal breaths of a train recording
LABELLED_SPRSOUND = 450  # recordings of SPRSound whose labels train the classifier: as many cycles as of ICBHI
OVERLAID_SPRSOUND = 700  # recordings of SPRSound whose breaths are overlaid: as many cycles as of ICBHI
RATE_HZ = 8000  # of size tiny, whose clips last CROP_S
CROP_S, CROP_STEP_S = 4.0, 3.0  # of whole recordings, and a crop for so many seconds of them
ICBHI_CROPS = 3  # times as many of ICBHI, which has a tenth of SPRSound's recordings
LEAST_PEAK = 1e-3  # of a crop; digital silence teaches nothing

STUDENT = {
    "model.dim": 128,
    "model.depth": 4,
    "model.heads": 4,
    "train.epochs": 13,
    "train.batch_size": 128,
    "train.micro_batch": 128,
    "train.lr": 2e-3,
    "train.warmup_epochs": 1,
    "train.weight_decay": 0.0,
    "train.device": "cpu",
    "train.precision": "float32",
    "train.evaluate_every": 1000,
    "augment.device_gain": 0.5,
    "augment.device_band_limit": 0.25,
    "augment.frequency_masks": 1,
    "augment.frequency_width": 10,
    "augment.time_masks": 0,
    "augment.time_shift": True,
}
CLASSIFIER = {
    "train.epochs": 3,
    "train.lr": 3e-4,
    "train.class_weights": "inverse",
    "train.evaluate_every": 3,
    "augment.time_shift": True,
    "train.select": "last",
    "train.device": "cpu",
    "train.precision": "float32",
}
HEADS = {
    "views": "both",
    "train.class_weights": "inverse",
    "train.select": "last",
    "train.evaluate_every": 1000,
    "train.device": "cpu",
}


@dataclass(frozen=True)
class StudentSettings(m2d_fusion.Settings):
    """Of the network that is taught."""

    teacher_digest: str = ""
    """SHA-256 of the teacher's file."""


def make_models(icbhi: Path, sprsound: Path, out: Path, *, teacher: str, seed: int = 0, progress: bool = False) -> None:
    """Folders of ICBHI 2017 and SPRSound, and the teacher's name or file -> `out`/rales and `out`/rales-mn04, run
    folders, and the files that ship beside them.

    A call that was interrupted goes on. Errors: those of reading and of training.
    """
    command = f"make_models.py --seed {seed}"
    with lock_folder(out):
        cycles = join_databases(read_cycles(icbhi, skip_damaged=True), read_cycles(sprsound, skip_damaged=True))
        overlaid = overlay_events(cycles, out / "overlay", seed, progress=progress)
        encoder = teach_student(cycles, overlaid, out, teacher=teacher, seed=seed, command=command, progress=progress)
        recipes = {
            "rales": classifier_recipe(encoder, {"seed": seed}),
            "rales-mn04": heads_recipe(teacher, {"seed": seed}),
        }
        for name, recipe in recipes.items():
            folds = (training_rows(divided, cycles, overlaid) for divided in train_side_folds(cycles))
            held_out = predict_held_out(recipe, folds, out / f"{name}-folds", progress=progress)
            table = training_rows(cycles[~of_sprsound(cycles)], cycles, overlaid)
            figures = recipe.run(recipe, table, out / name, command=command, progress=progress)
            encoder_file = find_checkpoint(teacher) if name == "rales-mn04" else None
            publish_checkpoint(out / name / "best.safetensors", out / f"{name}.safetensors", held_out, encoder_file)
            print("\n".join([f"{name}, ICBHI's test side:", *figure_lines(figures)]))


def join_databases(icbhi: pd.DataFrame, sprsound: pd.DataFrame) -> pd.DataFrame:
    """Cycles of both databases -> one table: ICBHI as its official split says, and SPRSound's train side."""
    first, second = splits.split_officially(icbhi), sprsound[sprsound["split"] == "train"]
    names = "sprsound_" + second["patient"].astype(str)  # patients are numbers in both
    return pd.concat([first, second.assign(patient=names)[list(first.columns)]], ignore_index=True)


def training_rows(icbhi: pd.DataFrame, cycles: pd.DataFrame, overlaid: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """ICBHI's cycles, divided, the joined cycles and overlaid ones -> rows of one classifier: those of ICBHI, some
    recordings of SPRSound, and overlaid breaths. Those that are made of a test recording stay out: like the other rows
    without a side they are in the table, so that all folds share one cache."""
    labelled = cycles[of_sprsound(cycles)]
    labelled = labelled[labelled["recording"].isin(choose_recordings(labelled, LABELLED_SPRSOUND, seed))]
    tested = set(icbhi.loc[icbhi["split"] == "test", "recording"])
    of_test = overlaid["recording"].str.split("_overlay").str[0].isin(tested)
    return pd.concat([icbhi, labelled, overlaid.assign(split=overlaid["split"].mask(of_test, ""))], ignore_index=True)


def choose_recordings(rows: pd.DataFrame, count: int, seed: int) -> set[str]:
    """Rows -> the names of `count` of their recordings, drawn."""
    names = np.sort(rows["recording"].unique())
    return set(np.random.default_rng(seed).choice(names, size=min(count, len(names)), replace=False))


def train_side_folds(cycles: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Joined cycles -> ICBHI's, divided anew: once for each fold of the train side's patients, which tests; the test
    side has no part in it."""
    icbhi = cycles[~of_sprsound(cycles)].reset_index(drop=True)
    train = icbhi[icbhi["split"] == "train"]
    fold_of = splits.assign_folds(train, FOLDS)
    for fold in range(FOLDS):
        sides = np.where(fold_of == fold, "test", "train")
        yield icbhi.assign(split=pd.Series(sides, index=train.index).reindex(icbhi.index, fill_value=""))


def predict_held_out(
    recipe: Recipe, tables: Iterable[pd.DataFrame], out: Path, *, progress: bool = False
) -> pd.DataFrame:
    """Recipe, and rows of the classifier of each fold -> predictions of all their test cycles (run folders in
    `out`)."""
    found = []
    for number, table in enumerate(tables):
        recipe.run(recipe, table, out / str(number), command=f"make_models.py, fold {number}", progress=progress)
        found.append(pd.read_csv(out / str(number) / "predictions.csv", dtype={"patient": str}))
    return pd.concat(found, ignore_index=True)


def of_sprsound(cycles: pd.DataFrame) -> "pd.Series[bool]":
    """-> which cycles are of SPRSound."""
    return cycles["patient"].astype(str).str.startswith("sprsound_")


def overlay_events(cycles: pd.DataFrame, folder: Path, seed: int = 0, *, progress: bool = False) -> pd.DataFrame:
    """Divided cycles -> copies of normal train cycles, crackles and wheezes laid over half of them (files in
    `folder`)."""
    train = cycles[cycles["split"] == "train"]
    spr = train[of_sprsound(train)]
    chosen = spr[spr["recording"].isin(choose_recordings(spr, OVERLAID_SPRSOUND, seed))]
    parts = {"icbhi": train[~of_sprsound(train)], "sprsound": chosen}
    return pd.concat(
        [
            mix_events_into_cycles(rows, folder, variants=VARIANTS[name], seed=seed, progress=progress)
            for name, rows in parts.items()
            if len(rows)
        ],
        ignore_index=True,
    )


def teach_student(
    cycles: pd.DataFrame,
    overlaid: pd.DataFrame,
    out: Path,
    *,
    teacher: str,
    seed: int,
    command: str = "",
    words: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Path:
    """Divided cycles and overlaid ones -> `out`/student, the run folder of an encoder that was taught on the train
    side, without its labels."""
    train = cycles[cycles["split"] == "train"]
    crops = crop_recordings(train, seed)
    rows = pd.concat([train, overlaid, crops], ignore_index=True)
    watched = train.head(16).assign(split="test")  # a run must have a test side; its figures mean nothing here
    watched["recording"] += "_watched"
    rows = pd.concat([rows, watched], ignore_index=True)

    path = find_checkpoint(teacher)
    vectors = hear_with_teacher(rows, path, progress=progress)
    targets = torch.from_numpy(find_components(vectors[: -len(watched)], vectors, seed))
    rows["target"] = np.arange(len(rows))
    recipe = student_recipe(targets, sha256_of(path), {"seed": seed, **(words or {})})
    recipe.run(recipe, rows, out / "student", command=command, progress=progress)
    return out / "student"


def crop_recordings(cycles: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Cycles -> rows of stretches of their recordings, wherever the breaths in them begin."""
    rng, rows = np.random.default_rng([seed, 1]), []
    for path, found in cycles.groupby("path", sort=True):
        duration_s = read_audio_info(Path(str(path))).duration_s
        times = 1 if of_sprsound(found).iloc[0] else ICBHI_CROPS
        count = times * max(1, round(duration_s / CROP_STEP_S))
        facts = found.iloc[0].to_dict() | {"recording": f"{found.iloc[0]['recording']}_crops"}
        for number, start_s in enumerate(rng.uniform(0, max(duration_s - CROP_S, 0), count), start=1):
            end_s = min(start_s + CROP_S, duration_s)
            rows.append({**facts, "cycle": number, "start_s": start_s, "end_s": end_s})
    return pd.DataFrame(rows, columns=cycles.columns).assign(label=CLASSES[0])


def hear_with_teacher(rows: pd.DataFrame, path: Path, *, progress: bool = False) -> NDArray[np.float32]:
    """Rows -> (N, D) vectors of the teacher, from the cache."""
    settings: dict[str, Any] = {"rate_hz": RATE_HZ, "samples": round(RATE_HZ * CROP_S)}
    settings |= {"teacher": str(path), "sha256": sha256_of(path)}
    width = len(hear_clips([], **settings)[0])
    prepare = Preparation(hear_clip, settings, (width,), together=hear_clips)
    return cached_arrays(rows, prepare, progress=progress)


def hear_clip(path: str | Path, start_s: float, end_s: float, **settings: Any) -> NDArray[np.float32]:
    """One row -> (D,), as `hear_clips`."""
    return hear_clips([(path, start_s, end_s)], **settings)[0]


def hear_clips(
    rows: Sequence[tuple[str | Path, float, float]], *, rate_hz: int, samples: int, teacher: str, sha256: str
) -> list[NDArray[np.float32]]:
    """Rows (path, start_s, end_s) -> (D,) each: mean and maximum over every block's map, of the sound as it is and four
    times faster. No row is taken for one of silence."""
    waves = [read_cycle_waveform(*row, rate_hz=rate_hz, samples=samples, fade_samples=0) for row in rows] or [
        np.zeros(samples, np.float32)
    ]
    with torch.no_grad():
        return list(load_teacher(teacher, rate_hz)(torch.from_numpy(np.stack(waves))).numpy())


@cache
def load_teacher(path: str, rate_hz: int) -> PooledMobileNet:
    """File and rate -> the teacher, kept for the next call."""
    return load_pooled_mobilenet(path, rate_hz)


def find_components(known: NDArray[np.float32], vectors: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Vectors (N, D) that say what varies, and those that are wanted (M, D) -> (M, components), of mean square 1."""
    mean, std = known.mean(axis=0), known.std(axis=0) + 1e-3
    components = min(COMPONENTS, *known.shape)
    found = PCA(components, svd_solver="randomized", random_state=seed).fit(np.clip((known - mean) / std, -8, 8))
    scale = np.sqrt((found.transform(np.clip((known - mean) / std, -8, 8)) ** 2).mean())
    return np.asarray(found.transform(np.clip((vectors - mean) / std, -8, 8)) / scale, np.float32)


def student_recipe(targets: Tensor, teacher_digest: str, words: Mapping[str, Any]) -> Recipe:
    """Targets (N, components) of the rows, and further settings -> the recipe of the network that is taught."""
    base = StudentSettings(variant="all_fixed", size="tiny", frontend="m2d_clip", teacher_digest=teacher_digest)
    base = base.with_presets(frozenset(["variant", "size", "frontend"]))
    settings = set_fields(base, {**STUDENT, **words})
    layers = tuple(range(1, settings.model.depth + 1))
    settings = replace(settings, model=replace(settings.model, layers=layers))
    recipe = m2d_fusion.recipe(settings)

    def build_model(settings: StudentSettings) -> FusionClassifier:
        model = m2d_fusion.build_model(settings)
        model.add_module("project", nn.Linear(model.head.in_features, targets.shape[1]))
        return model

    def loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
        assert isinstance(model, FusionClassifier)
        fused = model.embed(features)
        heard = model.get_submodule("project")(fused)
        return nn.functional.mse_loss(heard, targets.to(fused.device)[step.extras["target"]]), model.head(fused)

    return replace(recipe, build_model=build_model, loss=loss, extras=("target",))


def classifier_recipe(encoder: Path, words: Mapping[str, Any] | None = None) -> Recipe:
    """Run of the student, and further settings -> the recipe of the classifier that begins with its encoder."""
    tiny = {name: value for name, value in m2d_fusion.TINY.items() if name.startswith(("augment.", "train."))}
    given = {**tiny, **CLASSIFIER, **(words or {})}
    spelled = {name: format_value(value) for name, value in given.items()}
    return make_recipe("m2d_fusion", spelled, variant="all_learned", weights=str(encoder / "best.safetensors"))


def heads_recipe(teacher: str, words: Mapping[str, Any] | None = None) -> Recipe:
    """Name or file of mn04, and further settings -> the recipe of layer weights and head on it, frozen."""
    spelled = {name: format_value(value) for name, value in {**HEADS, **(words or {})}.items()}
    return make_recipe("mn04_fusion", spelled, weights=teacher)


def publish_checkpoint(checkpoint: Path, out: Path, held_out: pd.DataFrame, encoder: Path | None = None) -> None:
    """Checkpoint of a run, and predictions of cycles of patients whom its like had not seen -> the file that ships:
    half precision, calibrated by those predictions, without a path of the machine that made it, and without the tensors
    of a frozen `encoder` (its file) that is not ours."""
    tensors, metadata = read_safetensors(checkpoint)
    record = json.loads(metadata.pop("rales"))
    record["config"]["weights"] = ""
    record["split"]["left_out"] = []
    record["calibration"] = fit_calibration(held_out)
    if encoder:
        tensors, record[borrowed_encoder.KEY] = borrowed_encoder.leave_out_encoder(tensors, TEACHER, encoder)
    run_folder.save_tensors(out, {name: value.half() for name, value in tensors.items()}, record, metadata)


def fit_calibration(held_out: pd.DataFrame) -> dict[str, Any]:
    """Predictions of cycles of patients not seen -> what a checkpoint keeps for prediction."""
    p = held_out[[f"p_{name}" for name in CLASSES]].to_numpy(np.float64)
    return fit_calibration_record(held_out.assign(label=held_out["true_label"]), p, origin=ORIGIN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icbhi", type=Path, help="folder in ICBHI layout")
    parser.add_argument("sprsound", type=Path, help="folder in SPRSound layout")
    parser.add_argument("--teacher", default=TEACHER, help="name or file of the public network")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a call that was interrupted goes on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_models(**vars(options), progress=True)
    export_model(options.out / "rales.safetensors", options.out / "rales.onnx")  # what answers without PyTorch


if __name__ == "__main__":
    main()
