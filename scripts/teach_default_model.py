"""A model that a public network has taught: how it is made, from folders of recordings to the file. It does not ship.

A small ViT first learns to hear as mn04 (EfficientAT, trained on AudioSet) does: it is taught the leading principal
components of what mn04 makes of each clip, of all train-side sound of ICBHI and SPRSound and of breaths with simulated
events laid over them, without a label. What it hears is gained and cut in frequency as by another stethoscope; the
teacher hears the clip as it is. Then all its layers are fused (eq. 1), pooled (eq. 2) and the whole is trained on the
labelled cycles of both train sides and on the overlaid breaths. Temperature, thresholds and the answers per recording
come from patients of ICBHI's train side that are held out of both steps.

    python scripts/teach_default_model.py ICBHI_final_database SPRSound --teacher mn04_as --out runs/taught
"""

import argparse
from collections.abc import Mapping, Sequence
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

from make_default_model import FILE, join_databases, publish_checkpoint, tiny_settings
from rales.audio.io import read_audio_info
from rales.cli.result_lines import figure_lines
from rales.data import read_cycles
from rales.data.waveform_cache import Preparation, cached_arrays, read_cycle_waveform
from rales.files.atomic import lock_folder
from rales.labels import CLASSES
from rales.models.classifier import FusionClassifier
from rales.models.hub import find_checkpoint, sha256_of
from rales.recipes import m2d_fusion
from rales.recipes.registry import make_recipe
from rales.settings import format_value, parse_words, set_fields
from rales.synthesis.event_mixing import mix_events_into_cycles
from rales.training.recipe import LossContext, Recipe
from rales.training.teachers import PooledMobileNet, load_pooled_mobilenet

COMPONENTS = 256  # of the teacher's vectors that are taught
VARIANTS = {"icbhi": 3, "sprsound": 1}  # overlaid copies of the normal breaths of a train recording
OVERLAID_SPRSOUND = 700  # recordings of SPRSound whose breaths are overlaid: as many cycles as of ICBHI
RATE_HZ = 8000  # of size tiny, whose clips last CROP_S
CROP_S, CROP_STEP_S = 4.0, 3.0  # of whole recordings, and a crop for so many seconds of them
ICBHI_CROPS = 3  # times as many of ICBHI, which has a tenth of SPRSound's recordings
LEAST_PEAK = 1e-3  # of a crop; digital silence teaches nothing

STUDENT = {
    "model.dim": 128,
    "model.depth": 4,
    "model.heads": 4,
    "train.epochs": 10,
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
}
CLASSIFIER = {
    "train.epochs": 3,
    "train.lr": 2e-4,
    "train.class_weights": "none",
    "train.select": "last",
    "train.device": "cpu",
    "train.precision": "float32",
}


@dataclass(frozen=True)
class StudentSettings(m2d_fusion.Settings):
    """Of the network that is taught."""

    teacher_digest: str = ""
    """SHA-256 of the teacher's file."""


def make_default_model(
    icbhi: Path, sprsound: Path, out: Path, *, teacher: str, seed: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Folders of ICBHI 2017 and SPRSound, and the teacher's name or file -> `out`/model, a run folder, and
    `out`/model.safetensors, a file of half the size; -> the figures on ICBHI's test side.

    A call that was interrupted goes on. Errors: those of reading and of training.
    """
    command = f"teach_default_model.py --seed {seed}"
    with lock_folder(out):
        cycles = join_databases(read_cycles(icbhi, skip_damaged=True), read_cycles(sprsound, skip_damaged=True))
        overlaid = overlay_events(cycles, out / "overlay", seed, progress=progress)
        encoder = teach_student(cycles, overlaid, out, teacher=teacher, seed=seed, command=command, progress=progress)

        table = pd.concat([cycles, overlaid], ignore_index=True)
        recipe = classifier_recipe(encoder, {"seed": seed})
        figures = recipe.run(recipe, table, out / "model", command=command, progress=progress)
        publish_checkpoint(out / "model" / "best.safetensors", out / FILE.name)
    return figures


def of_sprsound(cycles: pd.DataFrame) -> "pd.Series[bool]":
    """-> which cycles are of SPRSound."""
    return cycles["patient"].astype(str).str.startswith("sprsound_")


def overlay_events(cycles: pd.DataFrame, folder: Path, seed: int = 0, *, progress: bool = False) -> pd.DataFrame:
    """Divided cycles -> copies of normal train cycles, crackles and wheezes laid over half of them (files in
    `folder`)."""
    train = cycles[cycles["split"] == "train"]
    spr = train[of_sprsound(train)]
    recordings = np.sort(spr["recording"].unique())
    count = min(OVERLAID_SPRSOUND, len(recordings))
    chosen = np.random.default_rng(seed).choice(recordings, size=count, replace=False)
    parts = {"icbhi": train[~of_sprsound(train)], "sprsound": spr[spr["recording"].isin(chosen)]}
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
    tiny = parse_words(word for word in tiny_settings() if not word.startswith("audio."))
    given = {**tiny, **CLASSIFIER, **(words or {})}
    spelled = {name: format_value(value) for name, value in given.items()}
    return make_recipe("m2d_fusion", spelled, variant="all_learned", weights=str(encoder / "best.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("icbhi", type=Path, help="folder in ICBHI layout")
    parser.add_argument("sprsound", type=Path, help="folder in SPRSound layout")
    parser.add_argument("--teacher", default="mn04_as", help="name or file of the public network")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a call that was interrupted goes on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    figures = make_default_model(**vars(options), progress=True)
    print("\n".join(figure_lines(figures)))
    print(f"model: {options.out / FILE.name}")


if __name__ == "__main__":
    main()
