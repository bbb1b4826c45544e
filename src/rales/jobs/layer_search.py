"""Layer search on a frozen encoder: which subset of its layers a linear probe does best with.

The encoder runs once; what is kept of a cycle is the mean, maximum and minimum over time of every layer. Then every
subset of layers (4,095 of twelve) is scored by a linear probe under patient-disjoint cross-validation, layer weights
are learned with one more such probe (`rales.jobs.linear_probe`), and each layer is left out once.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from rales.data import splits
from rales.data.dataset import load_dataset
from rales.data.splits import digest_cycles
from rales.environment import describe_environment
from rales.errors import UsageError
from rales.evaluation import predictions
from rales.evaluation.metrics import icbhi_scores, mean_auroc
from rales.files.atomic import lock_folder
from rales.files.json_files import flatten_json, to_jsonable
from rales.files.writers import write_csv, write_json
from rales.jobs.layer_importance import leave_one_out, linear_cka
from rales.jobs.layer_pictures import draw_search
from rales.jobs.linear_probe import (
    C,
    Measure,
    Pooled,
    Subset,
    Whole,
    check_strength,
    count,
    learned_weights,
    subsets,
    table,
    weighted,
)
from rales.labels import ICBHI, LabelSet
from rales.models import ViT
from rales.models.classifier import find_layer_widths
from rales.models.cpu_inference import prepack_for_cpu
from rales.models.layer_fusion import LayerFusion
from rales.models.m2d_checkpoints import check_finite, fingerprint_encoder
from rales.optional_packages import require_packages
from rales.progress import progress_bar
from rales.recipes import m2d_fusion
from rales.recipes.registry import make_recipe
from rales.settings import scored_together
from rales.training import run_folder
from rales.training.distributed import choose_device
from rales.training.pretrain import Probe
from rales.training.recipe import Recipe

Part = Literal["train", "all"]
POOLS = ("mean", "max", "min")
UNKNOWN = -1.0  # an AUROC that there is none of, in a file of finite numbers


@dataclass(frozen=True)
class Plan:
    """What a search is about to do."""

    cycles: pd.DataFrame
    used: pd.DataFrame
    """The rows of `cycles` that take part."""
    label: NDArray[np.int64]
    fold_of: NDArray[np.int64]
    recipe: Recipe
    encoder: nn.Module
    """Gives every layer's (B, T, D)."""
    norm_layers: bool
    chosen: list[Subset]
    label_set: LabelSet
    c: float
    source: dict[str, Any]
    """What the pooled layers depend on."""
    settings: dict[str, Any]
    """What all results depend on."""

    @property
    def widths(self) -> list[int]:
        """D of every layer."""
        return find_layer_widths(self.encoder)

    @property
    def measure(self) -> Measure:
        return partial(mean_auroc, label_set=self.label_set)


def search(
    cycles: pd.DataFrame,
    weights: str,
    out: Path,
    *,
    encoder: str = "",
    size: str = "",
    frontend: str = "",
    part: Part = "train",
    folds: int | None = None,
    seed: int = 0,
    c: float = C,
    sizes: Sequence[int] | None = None,
    norm_layers: bool = False,
    label_set: LabelSet = ICBHI,
    command: str = "",
    progress: bool = False,
    cache_folder: Path | None = None,
) -> pd.DataFrame:
    """Cycles table, whose labels are of a set, and a checkpoint ("" is a random start of `size`, or of base) -> the
    table of `probe_all` with its AUROCs, written to `out`.

    The cycles are heard as the checkpoint's run heard them, if it is one of ours; by the ICBHI log-mel with anybody
    else's checkpoint; by that of its size at a random start (tiny: m2d_clip). A `frontend` that is named wins.
    An `encoder` that is named (timm/NAME, hf/NAME_OR_FOLDER) is searched instead, as encoder_fusion hears it.
    `norm_layers` puts a LayerNorm on every layer before it is pooled, so that none counts for its scale.

    Writes subsets.csv, best_by_size.csv, leave_one_out.csv, cka.csv, layers.json (settings, learned weights, notes) and
    layers.png. The pooled layers (features.safetensors) and all confusion counts (counts.safetensors) stay there too:
    an interrupted search goes on from them and ends with the same numbers. Only recordings of the train split are used,
    so that the test set chooses nothing, unless `part` is "all". Errors: a folder that holds something else or a search
    of other settings, no cycles, too few patients, independent classes, no matplotlib, and all that reading data and
    checkpoint can meet.
    """
    check_packages()
    check_exclusive(label_set)
    check_strength(c)
    heard = build_searched_encoder(weights, size, frontend, seed, encoder)
    plan = plan_search(
        cycles.reset_index(drop=True),
        encoder or weights or f"random start, {size or 'base'}",
        *heard,
        part=part,
        folds=folds,
        seed=seed,
        c=c,
        sizes=sizes,
        norm_layers=norm_layers,
        label_set=label_set,
    )
    with lock_folder(out):
        begin(out, plan.settings, command)
        pooled = load_or_pool_layers(plan, out, cache_folder=cache_folder, progress=progress)
        plain = weighted(pooled, np.ones(len(plan.widths)))
        counts, aurocs = count_or_go_on(plan, plain, out, progress=progress)

        shared: dict[str, Any] = {"c": c, "classes": len(label_set), "progress": progress}
        importance = leave_one_out(plain, plan.label, plan.fold_of, plan.measure, **shared)
        learned = learned_weights(plain, plan.label, plan.fold_of, **shared)
        similarity = linear_cka(pooled["mean"])
        return write(out, plan, command, (counts, aurocs), importance, similarity, *learned)


def plan_search(
    cycles: pd.DataFrame,
    weights: str,
    recipe: Recipe,
    encoder: nn.Module,
    *,
    part: Part,
    folds: int | None,
    seed: int,
    c: float,
    sizes: Sequence[int] | None,
    norm_layers: bool,
    label_set: LabelSet,
) -> Plan:
    """What `search` was asked for, the checkpoint in words, the recipe by which it hears and its encoder -> a plan."""
    used = rows_of(cycles, part)
    fold_of = np.array(splits.assign_folds(used, folds, seed), np.int64)
    depth = len(find_layer_widths(encoder))
    check_sizes(sizes, depth)
    settings = recipe.settings
    source = {
        "weights": weights,
        "weights_digest": fingerprint_encoder(encoder),
        "frontend": settings.frontend if hasattr(settings, "frontend") else asdict(settings.features),
        "audio": asdict(recipe.audio),
        **({"norm_layers": True} if norm_layers else {}),
        "data": {**data_facts(used, label_set), "part": part, "whole_database": predictions.is_whole_database(cycles)},
    }
    asked = {"folds": len(set(fold_of)), "seed": seed, "c": c, "sizes": sizes and sorted(set(sizes))}
    return Plan(
        cycles=cycles,
        used=used,
        label=label_set.make_targets(used["label"].tolist()),
        fold_of=fold_of,
        recipe=recipe,
        encoder=encoder,
        norm_layers=norm_layers,
        chosen=subsets(depth, sizes),
        label_set=label_set,
        c=c,
        source=source,
        settings=to_jsonable({**source, **asked}),
    )


def load_or_pool_layers(plan: Plan, out: Path, *, cache_folder: Path | None, progress: bool) -> dict[str, Pooled]:
    """-> `features` of the rows that take part, kept in features.safetensors."""
    shape = (len(plan.used), len(plan.widths), max(plan.widths))
    pooled = kept(out / "features.safetensors", plan.source, dict.fromkeys(POOLS, shape))
    if pooled is None:
        waveforms = load_dataset(plan.cycles, plan.recipe, progress=progress, folder=cache_folder).inputs
        pooled = pool_layers(plan, waveforms, progress=progress)
        keep(out / "features.safetensors", pooled, plan.source)
    return pooled


def count_or_go_on(plan: Plan, plain: Pooled, out: Path, *, progress: bool) -> tuple[Whole, NDArray[np.float64]]:
    """(N, L, D) pooled layers -> (folds, subsets, C, C) confusion counts and (folds, subsets) AUROCs of every probe,
    kept in counts.safetensors."""
    classes, shape = len(plan.label_set), (len(set(plan.fold_of)), len(plan.chosen))
    expected = {"counts": (*shape, classes, classes), "aurocs": shape}
    known = kept(out / "counts.safetensors", plan.settings, expected) or {}
    aurocs = known.get("aurocs", np.full(shape, UNKNOWN))
    counts = count(
        plain,
        plan.label,
        plan.fold_of,
        plan.chosen,
        c=plan.c,
        classes=classes,
        counts=known.get("counts"),
        keep=lambda counted: keep(
            out / "counts.safetensors", {"counts": counted, "aurocs": np.nan_to_num(aurocs, nan=UNKNOWN)}, plan.settings
        ),
        measure=plan.measure,
        measured=aurocs,
        progress=progress,
    )
    return counts, np.where(aurocs == UNKNOWN, np.nan, aurocs)


def build_searched_encoder(
    weights: str, size: str, frontend: str, seed: int, encoder: str = ""
) -> tuple[Recipe, nn.Module]:
    """Checkpoint, the size of a random start, or a named encoder -> the recipe by which its cycles are heard, and the
    encoder."""
    given = {"--weights": weights, "--frontend": frontend, "--size": size}
    if encoder and any(given.values()):
        what = next(f"{name} {value}" for name, value in given.items() if value)
        raise UsageError(f"--encoder {encoder}: brings its own weights, features and size; leave {what} out")
    if weights and size:
        raise UsageError(f"--weights {weights}: brings its own size; leave --size {size} out")
    if encoder:
        recipe = make_recipe("encoder_fusion", [f"seed={seed}"], encoder=encoder, freeze="none")
    else:
        start = {"weights": weights} if weights else {"size": size or "base"}
        recipe = make_recipe("m2d_fusion", [f"seed={seed}"], variant="vanilla", frontend=frontend or None, **start)
    torch.manual_seed(seed)
    return recipe, recipe.build_model(recipe.settings).get_submodule("encoder")


def check_sizes(sizes: Sequence[int] | None, depth: int) -> None:
    """UsageError for numbers of layers that the encoder cannot fuse."""
    if sizes and not 1 <= min(sizes) <= max(sizes) <= depth:
        raise UsageError(f"--sizes {list(sizes)}: the encoder has {depth} layers, expected sizes from 1 to that")


def check_exclusive(label_set: LabelSet) -> None:
    """UsageError for classes of which a cycle may have several: the probe chooses one of them."""
    if label_set.independent:
        raise UsageError(
            f"the probe chooses one class a cycle, and {', '.join(label_set.classes)} are independent; leave "
            "--independent out, or give classes of which each cycle has one"
        )


def pool_layers(plan: Plan, waveforms: Any, *, progress: bool) -> dict[str, Pooled]:
    """Prepared waveforms (N, samples) -> `features` of the rows that take part, on the recipe's device."""
    recipe = plan.recipe
    device = choose_device(recipe.settings.train.device, 0)
    frontend = recipe.build_frontend(recipe.settings).to(device)
    return features(
        plan.encoder.to(device),
        frontend,
        waveforms,
        plan.used.index.to_numpy(),
        norm_layers=plan.norm_layers,
        batch=scored_together(recipe, 16),
        progress=progress,
    )


def check_packages() -> None:
    """UsageError where the picture of a search could not be drawn."""
    require_packages("the picture of a layer search", "report", "matplotlib")


def quick_probe(cycles: pd.DataFrame, *, folds: int | None = None, cache_folder: Path | None = None) -> Probe:
    """Cycles table with the labels of ICBHI -> a score for encoders in training: their last layer and all layers
    together, on train cycles.

    The class-balanced regression of the layer search under patient-disjoint cross-validation. `score` is that of all
    layers side by side. Computed in float32, so that one encoder always has one score.
    """
    cycles = cycles.reset_index(drop=True)
    used = rows_of(cycles, "train")
    label = ICBHI.make_targets(used["label"].tolist())
    fold_of = np.array(splits.assign_folds(used, folds), np.int64)
    waves = load_dataset(cycles, m2d_fusion.recipe(m2d_fusion.Settings()), folder=cache_folder).inputs

    def score(encoder: ViT) -> dict[str, float]:
        mean, std = encoder.norm_stats.tolist()
        audio = m2d_fusion.Audio(mean=mean, std=std)
        front = m2d_fusion.build_frontend(m2d_fusion.Settings(frontend="m2d", audio=audio))
        front = front.to(encoder.norm_stats.device)
        pooled = features(encoder, front, waves, used.index.to_numpy(), precision="float32")
        last, every = (encoder.depth - 1,), tuple(range(encoder.depth))
        plain = weighted(pooled, np.ones(encoder.depth))
        counts = count(plain, label, fold_of, [last, every])
        found = icbhi_scores(counts[:, 1].sum(axis=0))
        return {**found, "score_last_layer": icbhi_scores(counts[:, 0].sum(axis=0))["score"]}

    return Probe({**data_facts(used, ICBHI), "folds": len(set(fold_of)), "seed": 0}, score)


def rows_of(cycles: pd.DataFrame, part: Part) -> pd.DataFrame:
    """Cycles -> those that take part, in an order that does not depend on the table's."""
    used = cycles[cycles["split"] == "train"] if part == "train" else cycles
    if used.empty:
        raise ValueError("no cycle is in the train split; give data with a split, or let all recordings take part")
    return used.sort_values(["recording", "cycle"])


def data_facts(used: pd.DataFrame, label_set: LabelSet) -> dict[str, Any]:
    """Cycles that take part -> which and how many they are."""
    files = [(Path(path).name, *Path(path).stat()[6:9:2]) for path in sorted(set(used["path"]))]  # name, size, mtime
    return {
        "digest": digest_cycles(used),
        "files": hashlib.sha256(repr(files).encode()).hexdigest(),
        "recordings": used["recording"].nunique(),
        "patients": used["patient"].nunique(),
        "cycles": len(used),
        "classes": label_set.count_labels(used["label"]),
    }


def begin(out: Path, settings: Mapping[str, Any], command: str) -> None:
    """Make or reopen the folder of a search; one of other settings, or with other files, is a sentence."""
    path = out / "layers.json"
    if path.exists():
        stored = run_folder.read_json(path).get("settings")
        there, here = flatten_json(stored if isinstance(stored, dict) else {}), flatten_json(settings)
        for key in here:
            if here[key] != there.get(key):
                raise ValueError(
                    f"{out}: holds a layer search of other settings ({key} is {there.get(key)!r} there, "
                    f"{here[key]!r} here); choose another --out or remove the folder"
                )
        return
    if found := run_folder.unexpected_files(out):
        raise ValueError(f"{out}: no layer search, but it holds {', '.join(found[:3])}; choose an empty --out")
    write_json(path, {"settings": settings, "command": command, "finished": False})


def keep(path: Path, arrays: Mapping[str, NDArray[Any]], key: Mapping[str, Any]) -> None:
    run_folder.save_tensors(path, {name: torch.from_numpy(values) for name, values in arrays.items()}, {"key": key})


def kept(path: Path, key: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]] | None:
    """-> the arrays that `keep` wrote under the same key, or None. Errors: not these arrays of these shapes, or values
    that are not finite."""
    if not path.exists():
        return None
    tensors, record = run_folder.read_checkpoint(path)
    if record.get("key") != to_jsonable(key):
        return None
    if {name: tuple(value.shape) for name, value in tensors.items()} != dict(shapes):
        raise ValueError(f"{path}: holds other arrays than this search; remove the file, and they are made again")
    check_finite(tensors, path)
    return {name: value.numpy() for name, value in tensors.items()}


@torch.inference_mode()
def features(
    encoder: nn.Module,
    frontend: nn.Module,
    waves: NDArray[np.float32],
    rows: Sequence[int] | Whole | None = None,
    *,
    precision: str = "auto",
    norm_layers: bool = False,
    batch: int = 16,
    progress: bool = False,
) -> dict[str, Pooled]:
    """Encoder, front-end, (N, samples) waves and the rows asked for -> `mean`, `max`, `min` over patches of every
    layer, each (n, L, D); of a layer that is narrower than others the rest is 0.

    The minimum is there for negative layer weights (see `weighted`). `precision` as in the config: float32, bf16, or
    auto for bf16 where that is faster; both fit into the folder of one search. `norm_layers` as in the model: a
    LayerNorm without parameters first.
    """
    rows = np.arange(len(waves)) if rows is None else np.asarray(rows)
    device = next(encoder.parameters()).device
    packed = prepack_for_cpu(encoder, precision)
    widths = find_layer_widths(encoder)
    fusion = LayerFusion(range(1, len(widths) + 1), learned=False, norm=norm_layers)
    found = {pool: np.zeros((len(rows), len(widths), max(widths)), np.float32) for pool in POOLS}
    starts = range(0, len(rows), batch)
    for start in progress_bar(starts, shown=progress, desc="encode", unit="batch"):
        some = slice(start, start + batch)
        layers = packed(frontend(torch.from_numpy(waves[rows[some]]).to(device)))
        for i, z in enumerate(fusion.choose(layers)):
            for pool, value in zip(POOLS, (z.mean(dim=1), z.amax(dim=1), z.amin(dim=1)), strict=True):
                found[pool][some, i, : widths[i]] = value.float().cpu().numpy()
    return found


def write(
    out: Path,
    plan: Plan,
    command: str,
    fitted: tuple[Whole, NDArray[np.float64]],
    importance: pd.DataFrame,
    similarity: NDArray[np.float64],
    weights: NDArray[np.float64],
    learned: Whole,
) -> pd.DataFrame:
    """Everything that was found -> the files of `search`; -> the table of all subsets, layers.json being last."""
    counts, aurocs = fitted
    found = table(plan.chosen, counts, aurocs)
    shares = weights / weights.sum(axis=1, keepdims=True)
    elsewhere = {**chosen_elsewhere(counts), "auroc": auroc_chosen_elsewhere(aurocs)}
    notes = notes_of(plan.settings, found, elsewhere)
    numbers = list(range(1, weights.shape[1] + 1))

    write_csv(out / "subsets.csv", found)
    write_csv(out / "best_by_size.csv", found.groupby("size").head(1).sort_values("size"))
    write_csv(out / "leave_one_out.csv", importance)
    cka = pd.DataFrame(similarity, columns=pd.Index([str(number) for number in numbers]))
    write_csv(out / "cka.csv", cka.assign(layer=numbers)[["layer", *cka.columns]])
    draw_search(out / "layers.png", found, shares, importance, similarity, notes, plan.label_set.normal)
    write_json(
        out / "layers.json",
        {
            "settings": plan.settings,
            "command": command,
            **describe_environment(),
            "finished": True,
            "notes": notes,
            "subsets": len(found),
            "best": found.iloc[0].to_dict(),
            "best_by_auroc": found.sort_values("rank_by_auroc").iloc[0].to_dict(),
            "best_chosen_on_other_folds": elsewhere,
            "majority": {"specificity": 1.0, "sensitivity": 0.0, "score": 0.5, "auroc": 0.5},
            "leave_one_out": importance.to_dict("records"),
            "cka": similarity.tolist(),
            "learned": {
                **icbhi_scores(learned.sum(axis=0)),
                "layers": numbers,
                "normalised": shares.mean(axis=0).tolist(),
                "normalised_sd": shares.std(axis=0, ddof=1).tolist(),
                "raw_by_fold": weights.tolist(),
            },
        },
    )
    return found


def chosen_elsewhere(counts: Whole) -> dict[str, float]:
    """(folds, subsets, C, C) counts -> figures when each fold is scored by the subset that is best on all others."""
    total, own = counts.sum(axis=0), []
    for fold in counts:
        scores = [icbhi_scores(rest)["score"] for rest in total - fold]
        own.append(fold[int(np.nan_to_num(scores, nan=-1).argmax())])
    return icbhi_scores(np.sum(own, axis=0))


def auroc_chosen_elsewhere(aurocs: NDArray[np.float64]) -> float:
    """(folds, subsets) AUROCs -> their mean when each fold is scored by the subset that is best on all others."""
    known = np.nan_to_num(aurocs, nan=0.5)
    chosen = [int((known.sum(axis=0) - fold).argmax()) for fold in known]
    return float(np.nanmean([fold[subset] for fold, subset in zip(aurocs, chosen, strict=True)]))


def notes_of(settings: Mapping[str, Any], found: pd.DataFrame, elsewhere: Mapping[str, float]) -> list[str]:
    """What must stand beside the figures."""
    data = settings["data"]
    normal = next(iter(data["classes"]))
    by_auroc = found.sort_values("rank_by_auroc").iloc[0]
    notes = [
        f"Linear probes of frozen layers, {settings['folds']}-fold patient-disjoint cross-validation of "
        f"{data['cycles']} cycles of {data['patients']} patients: not the test scores of fine-tuned systems, not "
        "comparable with published scores.",
        f"The best of {len(found)} subsets ({found['layers'].iloc[0]}, Score {100 * found['score'].iloc[0]:.1f}) is "
        f"optimistic; each fold scored by the subset that is best on the others: {100 * elsewhere['score']:.1f}. "
        f"Every cycle called {normal}: 50.0.",
        f"By AUROC the best is {by_auroc['layers']} ({by_auroc['auroc']:.3f}), on the other folds' choice "
        f"{elsewhere['auroc']:.3f}; a blind guess has 0.5.",
        "Learned weights are of standardised layers and never negative; a layer that adds nothing to the others has 0.",
    ]
    if data["part"] == "train":
        notes.append("Only recordings of the train split took part: the test set chose nothing.")
    else:
        notes.append("All recordings took part: a choice made here has seen the test set of the official split.")
    if not data["whole_database"]:
        notes.append("Not the whole ICBHI 2017 database.")
    if settings["weights"].startswith("random start"):
        notes.append("The encoder has random weights, so its layers say little about a pre-trained one.")
    return notes
