"""A trained model and recordings in, a table of cycles with probabilities out; evaluation is that plus figures."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rales import finetune, recipes, runs, scoring
from rales.audio import wave
from rales.config import Recipe, UsageError
from rales.data import icbhi, splits
from rales.devices import pick
from rales.metrics import CLASSES, by_group
from rales.models.fast import pack
from rales.rows import cycle_waves, preparation, rows_of

NOTICE = "Research tool, not a diagnosis."
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".aif", ".aiff")
WINDOW_S = 4.0  # without annotated cycles: longer than nearly all breaths (2.7 s on average), half of the model's 8 s
SHORTEST_WINDOW_S = 0.5
BATCH = 16  # cycles scored at once; with the per-clip scaling no answer depends on it


class Model:
    """A trained classifier, ready for recordings. `classes` are its words in the order of its probabilities."""

    def __init__(
        self,
        recipe: Recipe,
        frontend: torch.nn.Module,
        network: torch.nn.Module,
        record: dict[str, Any],
        device: torch.device,
    ) -> None:
        self.recipe, self.record, self.device = recipe, record, device
        self.classes: tuple[str, ...] = tuple(record["classes"])
        self.frontend = frontend.to(device).eval()
        self.network = pack(network.to(device), "float32")  # same answers to 1e-5, faster on a processor

    def predict(self, paths: str | Path | Iterable[str | Path], problems: list[str] | None = None) -> pd.DataFrame:
        """Recordings or folders -> one row per cycle: recording, cycle, start_s, end_s, label, p_… (see contract).

        Cycles come from an ICBHI annotation beside the recording (then `true_label` is filled), else consecutive
        windows are taken (`source` tells). A recording that cannot be read raises a ValueError that names it; with a
        `problems` list given, its sentence goes there and the other recordings are unaffected.
        """
        tables = []
        for path, rows, waves in readable(recordings(paths), self, problems):
            rows, probabilities = self.of_cycles(rows, waves)
            table = scoring.predictions(rows, probabilities)
            table["source"] = rows["source"].to_numpy()
            table["path"] = str(path)
            tables.append(table)
        if not tables:
            return pd.DataFrame(columns=[*COLUMNS, "source", "path", "notice"])
        result = pd.concat(tables, ignore_index=True)
        result["notice"] = NOTICE
        return result[[*(c for c in COLUMNS if c in result), "source", "path", "notice"]]

    def embed(self, paths: str | Path | Iterable[str | Path]) -> NDArray[np.float32]:
        """Recordings or folders -> (cycles, D * n) fused vectors z' (eq. 2), rows as those of `predict`."""
        return np.stack(self.embed_table(paths)["vector"].to_list())

    def embed_table(self, paths: str | Path | Iterable[str | Path], problems: list[str] | None = None) -> pd.DataFrame:
        """Recordings or folders -> recording, cycle, start_s, end_s and the cycle's `vector` (D * n,).

        Errors go to `problems` as in `predict`.
        """
        embed = getattr(self.network, "embed", None)
        if embed is None:
            raise ValueError(f"a model of recipe {self.recipe.name} has no embedding; use one of m2d_fusion")
        columns = ["recording", "cycle", "start_s", "end_s"]
        tables = [pd.DataFrame(columns=[*columns, "vector"])]
        for _, rows, waves in readable(recordings(paths), self, problems):
            vectors = self.in_batches(waves, embed)
            cycle = rows.groupby(columns, sort=False).ngroup().to_numpy()  # of a long one there may be several pieces
            table = rows[columns].drop_duplicates().reset_index(drop=True)
            tables.append(table.assign(vector=[vectors[cycle == number].mean(axis=0) for number in table.index]))
        return pd.concat(tables[1:] or tables, ignore_index=True)

    def probabilities(self, waves: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, samples) prepared rows -> (N, classes) probabilities of each."""
        return torch.from_numpy(self.in_batches(waves, self.network)).double().softmax(dim=1).numpy()

    def of_cycles(
        self, rows: pd.DataFrame, waves: NDArray[np.float32], chosen: NDArray[np.intp] | None = None
    ) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Rows, what was prepared of them, and the positions asked for -> one row and probabilities a cycle."""
        chosen = np.arange(len(waves)) if chosen is None else chosen
        cycles, logits = scoring.pooled(rows.iloc[chosen], self.in_batches(waves, self.network, chosen))
        return cycles, torch.from_numpy(logits).double().softmax(dim=1).numpy()

    @torch.inference_mode()
    def in_batches(
        self, waves: NDArray[np.float32], function: Any, rows: NDArray[np.intp] | None = None
    ) -> NDArray[np.float32]:
        """(N, samples) -> (n, …) of a function of the front-end's output, in float32."""
        rows = np.arange(len(waves)) if rows is None else rows
        results = []
        for start in range(0, len(rows), BATCH):
            batch = torch.from_numpy(waves[rows[start : start + BATCH]]).to(self.device)
            results.append(function(self.frontend(batch)).float().cpu().numpy())
        return np.concatenate(results)


COLUMNS = ("recording", "cycle", "start_s", "end_s", "label", *(f"p_{name}" for name in CLASSES), "true_label")


def load(path_or_name: str | Path, device: str = "auto") -> Model:
    """Run folder or its checkpoint file -> Model. Errors: an unfinished run, a file that is no trained model."""
    path = Path(path_or_name)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ValueError(f"{path}: no run folder (config.json is missing); give the --out of `rales train`")
        if not (path / "done").exists():
            raise ValueError(f"{path}: the run is not finished; the same train command goes on with it")
        if runs.read_json(path / "config.json").get("recipe") == "pretrain":
            raise ValueError(
                f"{path}: a pre-trained encoder, which names no classes; fine-tune it (rales train --weights)"
            )
        path = path / "best.safetensors"
    tensors, record = runs.read_checkpoint(path)
    recipe = recipes.rebuild(record, str(path))
    frontend, network = recipe.frontend(recipe.config), recipe.model(recipe.config)
    expected = finetune.tensors_of(network, frontend)
    shapes = {name: value.shape for name, value in expected.items()}
    stored = {name: value.shape for name, value in tensors.items()}
    wrong = [name for name in shapes.keys() | stored.keys() if shapes.get(name) != stored.get(name)]
    if wrong:
        raise ValueError(
            f"{path}: its tensors do not fit the architecture that its record names ({len(wrong)} differ, first "
            f"{min(wrong)}); the file was put together from two models"
        )
    finetune.load_tensors(tensors, network, frontend)
    return Model(recipe, frontend, network, record, pick(device, 0))


def recordings(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Files and folders (searched through) -> audio files, each once, sorted inside a folder.

    A file that is not there is left to the reader. Errors: a folder without audio.
    """
    found: list[Path] = []
    for given in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(given)
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.rglob("[!.]*") if p.suffix.lower() in AUDIO_SUFFIXES)
        if not inside:
            raise ValueError(f"{path}: no recording in it ({', '.join(AUDIO_SUFFIXES)})")
        found += inside
    return list(dict.fromkeys(found))


def readable(
    paths: Sequence[Path], model: Model, problems: list[str] | None
) -> Iterable[tuple[Path, pd.DataFrame, NDArray[np.float32]]]:
    """Recordings -> (path, rows, (cycles, samples) prepared waves) of those that can be read."""
    recipe = model.recipe
    for path in paths:
        try:
            rows = rows_of(cycles_of(path), recipe)
            waves = preparation(recipe).of_rows(rows)  # the same numbers that training saw
        except (ValueError, OSError) as error:
            if problems is None:
                raise
            problems.append(str(error))
            continue
        yield path, rows, waves


def cycles_of(path: Path) -> pd.DataFrame:
    """Recording -> rows recording, cycle, start_s, end_s, source and, where annotated, the true label."""
    duration_s = wave.info(path).duration_s
    annotation = path.with_suffix(".txt")
    if annotation.is_file():
        marks, wrong = icbhi.annotation(annotation, duration_s)
        if wrong:
            raise ValueError(wrong[0] + (f" (and {len(wrong) - 1} more lines)" if len(wrong) > 1 else ""))
        rows = pd.DataFrame({"start_s": [m.start_s for m in marks], "end_s": [m.end_s for m in marks]})
        rows["label"] = [CLASSES[m.crackle + 2 * m.wheeze] for m in marks]
        rows["source"] = "annotation"
    else:
        rows = pd.DataFrame(windows(duration_s), columns=["start_s", "end_s"])
        rows["source"] = "window"
    rows.insert(0, "recording", path.stem)
    rows.insert(1, "cycle", np.arange(1, len(rows) + 1))
    name = path.stem.split("_")
    device = name[4] if len(name) == 5 and name[4] in icbhi.DEVICES else ""
    return rows.assign(split="", path=str(path), device=device)


def windows(duration_s: float) -> list[tuple[float, float]]:
    """Length of a recording -> consecutive windows that cover it; a short rest joins the window before it."""
    starts = np.arange(0.0, max(duration_s, 1e-9), WINDOW_S).tolist()
    if len(starts) > 1 and duration_s - starts[-1] < SHORTEST_WINDOW_S:
        starts.pop()
    return list(zip(starts, [*starts[1:], duration_s], strict=True))


def evaluate(
    run: Path, cycles: pd.DataFrame, *, progress: bool = False, cache_folder: Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Run folder and cycles table -> every figure on the test part of the run's split, per device and location, and
    on both leak-free repairs of the official split.

    A repair's test part may hold cycles that this run was trained on; their number stands beside its figures.
    """
    model = load(run, device)
    config, record = model.recipe.config, model.record
    table = splits.divide(cycles, config, needed=("test",))
    parts = {config.split.name: table["split"] == "test"}
    if config.split.name == "official":
        for repair in ("official_drop", "official_move"):
            there = set(splits.keys(splits.apply(cycles, repair).query("split == 'test'")))
            if there:  # else every test patient is trained on too
                parts[repair] = pd.Series([key in there for key in splits.keys(cycles)], index=cycles.index)
    items = rows_of(table.assign(split=""), model.recipe)  # no row trains here, so there are no copies
    waves = cycle_waves(items, model.recipe, progress=progress, folder=cache_folder)
    validation = (table["split"] == "validation").to_numpy()
    needed = np.logical_or.reduce([validation, *(part.to_numpy() for part in parts.values())])
    scored = np.full((len(cycles), len(CLASSES)), np.nan)
    wanted = dict(zip(splits.keys(cycles[needed]), np.flatnonzero(needed), strict=True))
    found, probabilities = model.of_cycles(items, waves, np.flatnonzero([key in wanted for key in splits.keys(items)]))
    scored[[wanted[key] for key in splits.keys(found)]] = probabilities

    figures = {
        name: scoring.figures_of(
            table[rows],
            scored[rows],
            selected_epoch=record["epoch"],
            record=record,
            whole_database=scoring.is_whole_database(cycles),
        )
        for name, rows in parts.items()
    }
    own, rows = figures.pop(config.split.name), parts[config.split.name]
    true = [CLASSES.index(label) for label in table.loc[rows, "label"]]
    if validation.any():
        classes = np.array([CLASSES.index(label) for label in table["label"]])
        sides = {"validation": validation, "test": rows.to_numpy()}
        own |= scoring.from_validation(
            {side: classes[there] for side, there in sides.items()},
            {side: scored[there] for side, there in sides.items()},
        )
    own["by_device"] = by_group(true, scored[rows], table.loc[rows, "device"].to_numpy())
    own["by_location"] = by_group(true, scored[rows], table.loc[rows, "location"].to_numpy())
    own["protocol"]["same_data_as_training"] = runs.digest(table[table["split"] != ""]) == record["split"]["digest"]
    own["leak_free"] = {
        name: {
            **{figure: part[figure] for figure in scoring.FIGURES},
            "ci95": part["ci95"],
            "cycles": part["protocol"]["cycles"],
            "cycles_trained_on": int((parts[name] & (table["split"] == "train")).sum()),
        }
        for name, part in figures.items()
    }
    own["notice"] = NOTICE
    return own


def write(table: pd.DataFrame, out: Path, form: str) -> list[Path]:
    """Prediction table -> file(s); audacity and raven hold one recording a file, so several go into a folder `out`.

    Raven columns are those of its selection tables; times in seconds.
    """
    if form in ("csv", "json", "parquet"):
        with runs.replacing(out) as beside:
            if form == "csv":
                table.to_csv(beside, index=False)
            elif form == "json":
                table.to_json(beside, orient="records", indent=1, double_precision=15)
            else:
                table.to_parquet(beside, index=False)
        return [out]
    if form not in WRITERS:
        raise UsageError(f"--format {form}: expected one of {', '.join(FORMATS)}")
    groups = list(table.groupby("path", sort=False))
    names = [f"{Path(str(path)).stem}.{form}.txt" for path, _ in groups]  # not `.txt` alone, as annotations are named
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{out}: two recordings would both be written to {twice}; predict them one folder at a time")
    files = [out] if len(groups) == 1 and out.suffix else [out / name for name in names]
    for file, (_, rows) in zip(files, groups, strict=True):
        with runs.replacing(file) as beside:
            beside.write_text(WRITERS[form](rows))
    return files


def audacity(rows: pd.DataFrame) -> str:
    """Rows of one recording -> Audacity label track: start, end, label with its probability."""
    return "".join(
        f"{r.start_s:.6f}\t{r.end_s:.6f}\t{r.label} {getattr(r, f'p_{r.label}'):.2f} ({NOTICE})\n"
        for r in rows.itertuples()
    )


def raven(rows: pd.DataFrame) -> str:
    """Rows of one recording -> Raven selection table (tab-separated, one selection a cycle)."""
    selections = pd.DataFrame(
        {
            "Selection": np.arange(1, len(rows) + 1),
            "View": "Spectrogram 1",
            "Channel": 1,
            "Begin Time (s)": rows["start_s"].to_numpy(),
            "End Time (s)": rows["end_s"].to_numpy(),
            "Low Freq (Hz)": 50,
            "High Freq (Hz)": 8000,
            "Begin File": [Path(path).name for path in rows["path"]],
            "Class": rows["label"].to_numpy(),
            **{f"p_{name}": rows[f"p_{name}"].to_numpy() for name in CLASSES},
            "Notice": NOTICE,
        }
    )
    return selections.to_csv(sep="\t", index=False)


def check_vectors_name(out: Path) -> None:
    """A file name that `write_vectors` cannot serve is a UsageError, best raised before the work."""
    if out.suffix not in (".npz", ".parquet"):
        raise UsageError(f"--out {out}: expected a name that ends in .npz or .parquet")


def write_vectors(table: pd.DataFrame, out: Path) -> None:
    """Table of `embed_table` -> .npz (one array a column) or .parquet."""
    check_vectors_name(out)
    with runs.replacing(out) as beside:
        if out.suffix == ".parquet":
            table.to_parquet(beside, index=False)
        else:
            with beside.open("wb") as file:  # given a name, numpy would add its own suffix
                np.savez(
                    file,
                    vectors=np.stack(table["vector"].to_list()),
                    recording=table["recording"].to_numpy(dtype=str),
                    cycle=table["cycle"].to_numpy(),
                    start_s=table["start_s"].to_numpy(),
                    end_s=table["end_s"].to_numpy(),
                )


WRITERS = {"audacity": audacity, "raven": raven}
FORMATS = ("csv", "json", "parquet", *WRITERS)
