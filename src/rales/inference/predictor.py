"""A trained model and recordings in, a table of cycles with probabilities out; evaluation is that plus figures."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from rales.audio import io
from rales.audio.open_audio import NoRoom
from rales.audio.quality import Verdict
from rales.config import Recipe
from rales.data import icbhi, splits
from rales.data.dataset import cached_waveforms, choose_preparation, prepared_rows, scored_together
from rales.data.prefetch import prefetch_ahead
from rales.errors import UsageError
from rales.evaluation import predictions
from rales.evaluation.metrics import metrics_by_group
from rales.evaluation.predictions import NOTICE, Decision
from rales.files.csv_cells import make_encodable, one_line
from rales.inference import audio_reader
from rales.inference.audio_reader import Cycles, Piece, Waves
from rales.labels import CLASSES
from rales.models import hub
from rales.models.cpu_inference import prepack_for_cpu
from rales.models.layer_fusion import mean_plus_max
from rales.models.m2d_checkpoints import (
    build_without_memory,
    check_complete,
    fingerprint_encoder,
    size_errors_as_sentences,
)
from rales.progress import progress_bar
from rales.recipes.registry import rebuild_recipe
from rales.training import finetune, run_folder
from rales.training.distributed import pick
from rales.typing import Probabilities

BATCH = 32  # cycles scored at once; no answer depends on it but with audio.scope=batch, where the run says how many
CHUNK = 4096  # rows of a table that is handed on
IDENTITY = ("recipe", "options", "config", "seed")  # of a run, in config.json and in its checkpoints
DEFAULT, DEFAULT_FOLDER = hub.SHIPPED, hub.SHIPPED_FILE.parent

Paths = str | Path | Iterable[str | Path]
Engine = Callable[[Waves], NDArray[np.floating[Any]]]  # (B, samples) cycles -> (B, classes), before calibration


class Answer(NamedTuple):
    """One recording with a row of `values` per cycle that can be judged, or the error that kept it from being read."""

    path: str
    duration_s: float
    cycles: Cycles
    values: NDArray[Any]
    error: Exception | None
    notes: Sequence[str] = ()  # about its file, which was read all the same

    def of_all_cycles(self) -> NDArray[Any]:
        """(judged cycles, n) `values` -> (cycles, n), NaN where the sound cannot be judged."""
        spread = np.full((len(self.cycles.verdicts), self.values.shape[1]), np.nan)
        spread[self.cycles.judged] = self.values
        return spread


class Model:
    """A trained classifier, ready for recordings. `classes` are its words in the order of its probabilities.

    All probabilities come from `engine`; without one the network computes them here, in float32. `at_once` batches of
    cycles are scored side by side, each by a thread. `calibration` is what the run learned from its validation patients
    (temperature, threshold for normal), empty if it had none.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: torch.nn.Module,
        record: dict[str, Any],
        device: torch.device,
        engine: Engine | None = None,
        frontend: torch.nn.Module | None = None,
    ) -> None:
        self.recipe, self.record, self.device = recipe, record, device
        self.classes: tuple[str, ...] = tuple(record["classes"])
        self.calibration: dict[str, Any] = record.get("calibration") or {}
        self.frontend = (frontend or recipe.frontend(recipe.config)).to(device).eval()
        self.plain = network.to(device).eval()
        self.engine: Engine = engine or self.in_torch
        self.at_once = 1

    @cached_property
    def network(self) -> torch.nn.Module:
        """The network for inference: same answers to 1e-5, faster on a processor, no gradients."""
        return prepack_for_cpu(self.plain, "float32")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights and of all settings: whether two answers are of the same model."""
        if "export" in self.record:  # an artefact, whose weights are not here
            known: str = self.record["export"]["digest"]
            return known
        settings = json.dumps([self.record["recipe"], self.record["config"]], sort_keys=True)
        return hashlib.sha256((fingerprint_encoder(self.plain) + settings).encode()).hexdigest()

    def predict(
        self,
        paths: Paths,
        problems: list[str] | None = None,
        decision: Decision | None = None,
        *,
        cycles: str = "auto",
        quality: bool = True,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Recordings, folders, globs, URLs -> one row per cycle: recording, cycle, start_s, end_s, label, p_… (see
        contract).

        Cycles come from an annotation beside the recording (then `true_label` is filled), else breaths are found in
        its sound, else windows are taken (`source` tells; `cycles` chooses, see `recordings.cycles_of`). What must
        stand beside the answers is `.attrs["notice"]`.

        A recording that cannot be read raises a ValueError that names it; with a `problems` list given, its sentence
        goes there and the other recordings are unaffected. A cycle whose sound cannot be judged has no label and NaN
        probabilities; `quality` and `quality_reason` say why (see audio.quality). With quality=False every cycle gets a
        label.
        """
        found = self.tables(
            audio_reader.find(paths), problems, decision, cycles=cycles, quality=quality, progress=progress
        )
        tables = [table for table, _ in found]
        result = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
        result.attrs["notice"] = tables[0].attrs["notice"]
        return result.drop(columns="true_label") if result["true_label"].isna().all() else result

    def tables(
        self,
        paths: Sequence[str],
        problems: list[str] | None = None,
        decision: Decision | None = None,
        *,
        cycles: audio_reader.Where = "auto",
        quality: bool = True,
        progress: bool = False,
    ) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        """Recordings -> their cycles and their status (path, status, sentence, duration_s, cycles, not_judged, quality,
        quality_reason), some whole recordings at a time and at least once; errors as in `predict`."""
        decision = decision or self.decision()
        some, rows = list[Answer](), 0
        answers = self.answers(paths, self.engine, problems, cycles, quality)
        for answer in with_progress(answers, paths, progress):
            some.append(answer)
            rows += len(answer.values)
            if rows >= CHUNK or len(some) >= CHUNK:
                yield self.tabulated(some, decision)
                some, rows = [], 0
        yield self.tabulated(some, decision)

    def decision(self, min_confidence: float = 0.0, threshold: float | Literal["validation"] | None = None) -> Decision:
        """How labels are to be decided -> Decision at this model's own temperature. Errors: a threshold of validation
        patients that the model does not have."""
        if threshold == "validation":
            threshold = self.calibration.get("threshold")
            if threshold is None:
                raise UsageError(
                    "--threshold validation: the model has no threshold of validation patients; train with --select "
                    "validation, or give a number"
                )
        caution = ""
        if self.recipe.config.audio.scope == "batch":
            caution = (
                "The model was trained with audio.scope=batch: an answer depends on the other cycles of the call, of "
                f"which {self.together} at a time, in the order given, are scaled together."
            )
        return Decision(self.calibration.get("temperature"), threshold, min_confidence, caution)

    @property
    def together(self) -> int:
        """Cycles that are scored at once."""
        return scored_together(self.recipe.config, BATCH)

    def tabulated(self, answers: Sequence[Answer], decision: Decision) -> tuple[pd.DataFrame, pd.DataFrame]:
        good = [answer for answer in answers if answer.error is None]
        rows = rows_of(good)
        values = np.concatenate([np.empty((0, len(self.classes))), *(answer.of_all_cycles() for answer in good)])
        table = predictions.predictions_table(rows, values, decision)
        verdicts = [verdict for answer in good for verdict in answer.cycles.verdicts]
        table["quality"] = [verdict.quality for verdict in verdicts]
        table["quality_reason"] = [verdict.reason for verdict in verdicts]
        table = table.assign(source=rows["source"], path=rows["path"])
        table.attrs["notice"] = decision.notice
        return table, status_table(answers)

    def embed(
        self,
        paths: Paths,
        *,
        layer: int | None = None,
        per: Literal["cycle", "recording"] = "cycle",
        cycles: str = "auto",
        quality: bool = True,
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Recordings -> (rows, features) vectors of `embed_table`. Errors: none of them can be judged."""
        table = self.embed_table(paths, layer=layer, per=per, cycles=cycles, quality=quality, progress=progress)
        if table.empty:
            raise ValueError("; ".join(table.attrs["not_judged"]) or "no cycle in these recordings")
        return np.stack(table["vector"].to_list())

    def embed_table(
        self,
        paths: Paths,
        problems: list[str] | None = None,
        *,
        layer: int | None = None,
        per: Literal["cycle", "recording"] = "cycle",
        cycles: str = "auto",
        quality: bool = True,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Recordings -> recording, cycle, start_s, end_s, path and `vector`: the fused z' (D * n,) that the head sees
        (eq. 2), or mean + maximum of one layer (D,), counted from 1.

        A recording's vector is the mean of its cycles' (`cycle` is then 0). Errors go to `problems` as in `predict`.
        What cannot be judged has no vector; `attrs["not_judged"]` has a sentence for each such recording.
        """
        tables, not_judged = [], list[str]()
        sources = audio_reader.find(paths)
        answers = self.answers(sources, self.embedder(layer), problems, cycles, quality)
        for answer in with_progress(answers, sources, progress):
            rows, vectors = rows_of([answer]).drop(columns=["label", "source"])[answer.cycles.judged], answer.values
            not_judged += predictions.unjudged_sentences(status_table([answer]))
            if per == "recording" and len(rows):
                rows = rows.head(1).assign(cycle=0, start_s=0.0, end_s=answer.duration_s)
                vectors = vectors.mean(axis=0, keepdims=True)
            if answer.error is None:
                tables.append(rows.assign(vector=list(vectors)))
        none = rows_of([]).drop(columns=["label", "source"]).assign(vector=[])
        table = pd.concat([each for each in tables if len(each)] or [none], ignore_index=True)
        table.attrs["not_judged"] = not_judged
        return table

    def embedder(self, layer: int | None) -> Callable[[Waves], NDArray[np.float32]]:
        """Layer, or None for the fused ones -> (B, samples) -> (B, features)."""
        if "export" in self.record:
            raise ValueError(
                "an exported artefact holds no vectors, only probabilities; give the run folder as --model"
            )
        embed, encoder = getattr(self.network, "embed", None), getattr(self.network, "encoder", None)
        if embed is None or (layer is not None and encoder is None):
            raise ValueError(f"a model of recipe {self.recipe.name} has no embedding; use one of m2d_fusion")
        if layer is None or encoder is None:
            return lambda waves: self.forward(embed, waves)
        if not 1 <= layer <= encoder.depth:
            raise UsageError(f"--layer {layer}: the encoder has layers 1 to {encoder.depth}, or say fused")
        return lambda waves: self.forward(lambda logmel: mean_plus_max(encoder(logmel)[layer - 1]), waves)

    def answers(
        self,
        paths: Iterable[str],
        function: Callable[[Waves], NDArray[Any]],
        problems: list[str] | None,
        cycles: audio_reader.Where = "auto",
        quality: bool = True,
    ) -> Iterator[Answer]:
        """Recordings -> what a function of (B, samples) says of their cycles, batched across recordings, in order."""
        if self.recipe.rows is not None or self.recipe.prepare is not None:
            yield from self.own_answers(paths, function, problems, cycles, quality)
            return
        values, not_a_number = list[NDArray[Any]](), None
        for piece, mine in self.pieces(paths, function, cycles, quality):
            values += [mine] if len(mine) else []
            if not np.isfinite(mine).all():
                not_a_number = no_answer(piece.path, piece.waves)
            if not piece.last:
                continue
            error = piece.error or not_a_number
            if error is not None:
                if problems is None or isinstance(error, NoRoom) or not isinstance(error, ValueError | OSError):
                    raise error
                problems.append(one_line(str(error)))
                values = []  # a recording that breaks off has no answer, also where its first cycles had one
            together = np.concatenate(values) if values else np.empty((0, len(self.classes)))
            if self.recipe.config.audio.scope == "batch" and len(together):  # scored as neighbours of the others
                together = together[piece.cycles.judged]
            yield Answer(piece.path, piece.duration_s, piece.cycles, together, error, piece.notes)
            values, not_a_number = [], None

    def pieces(
        self, paths: Iterable[str], function: Callable[[Waves], NDArray[Any]], cycles: audio_reader.Where, quality: bool
    ) -> Iterator[tuple[Piece, NDArray[Any]]]:
        """Recordings -> their pieces in order, each with what the function says of its cycles."""
        reading = audio_reader.ahead(paths, self.recipe.config.audio, cycles, gate=quality)
        # Closed whatever happens, else readers wait for someone to take their pieces and keep the process from ending
        with closing(reading), ThreadPoolExecutor(self.at_once, thread_name_prefix="rales-score") as pool:
            groups = audio_reader.grouped(audio_reader.filling(reading, self.together), self.together)
            begun = ((group, pool.submit(audio_reader.values_of, group, function)) for group in groups)
            for group, future in prefetch_ahead(begun, self.at_once - 1):
                values = future.result()
                for piece in group:
                    yield piece, values[: len(piece.waves)]
                    values = values[len(piece.waves) :]

    def own_answers(
        self,
        paths: Iterable[str],
        function: Callable[[Waves], NDArray[Any]],
        problems: list[str] | None,
        cycles: audio_reader.Where,
        quality: bool,
    ) -> Iterator[Answer]:
        """`answers` of a system that prepares its rows in its own way, one recording after the other."""
        nothing = np.empty((0, len(self.classes)))
        for path in paths:
            try:
                with audio_reader.local(path) as file:
                    facts, where = io.read_audio_info(file), audio_reader.asked(cycles, path)
                    found = audio_reader.cycles_of(file, facts.duration_s, where)
                    found = audio_reader.with_verdicts(file, facts, found, where, quality)
                    table = rows_of([Answer(str(file), facts.duration_s, found, nothing, None)])
                    table = table[found.judged].reset_index(drop=True)
                    place = pd.Series([str(file)] * len(table), dtype=object)  # str columns take UTF-8 alone
                    named = table.assign(split="", device=icbhi.device_of(file.stem), path=place)
                    rows = prepared_rows(named, self.recipe)
                    waves = choose_preparation(self.recipe).of_rows(rows) if len(rows) else np.empty((0, 0), np.float32)
                starts = range(0, len(waves), BATCH)
                values = np.concatenate([function(waves[i : i + BATCH]) for i in starts]) if len(waves) else nothing
                if not np.isfinite(values).all():
                    raise no_answer(path, waves)
            except Exception as caught:
                if problems is None or isinstance(caught, NoRoom):
                    raise
                error = audio_reader.told(path, caught)
                problems.append(one_line(str(error)))
                yield Answer(path, float("nan"), Cycles([], [], None, ""), nothing, error)
                continue
            if function == self.engine:
                values = predictions.pool_cycle_probabilities(rows, values)[1]
            elif len(rows) > len(table):
                values = np.stack([values[rows["cycle"] == number].mean(axis=0) for number in table["cycle"]])
            yield Answer(path, facts.duration_s, found, values, None, audio_reader.untold(facts, found.verdicts))

    def probabilities(self, waves: Waves, rows: NDArray[np.intp] | None = None) -> Probabilities:
        """(N, samples) prepared cycles, and the rows of them that are asked for -> (n, classes), not calibrated."""
        rows = np.arange(len(waves)) if rows is None else rows
        starts = range(0, len(rows), self.together)
        batches = [self.engine(waves[rows[start : start + self.together]]) for start in starts]
        return np.concatenate([np.empty((0, len(self.classes))), *batches])

    def in_torch(self, waves: Waves, network: torch.nn.Module | None = None) -> Probabilities:
        """(B, samples) -> (B, classes): the engine that is always there, of this network or another form of it."""
        return torch.from_numpy(self.forward(network or self.network, waves)).double().softmax(dim=1).numpy()

    @torch.inference_mode()
    def forward(self, function: Callable[[Tensor], Tensor], waves: Waves) -> NDArray[np.float32]:
        """Function of the front-end's output, (B, samples) -> (B, …) float32."""
        result: NDArray[np.float32] = (
            function(self.frontend(torch.from_numpy(waves).to(self.device))).float().cpu().numpy()
        )
        return result


def no_answer(path: str, waves: Waves) -> ValueError:
    """Recording, and what the model was given when its answer was NaN or infinite -> what to say of the recording."""
    return ValueError(
        f"{path}: the model's answer to one of its cycles is not a number, so none of them has a label; it was given "
        f"values up to {np.abs(waves).max():.3g}; if those of a wave pass 1, the recording is damaged, else the model"
    )


def with_progress(answers: Iterator[Answer], paths: Sequence[str], shown: bool) -> Iterator[Answer]:
    """Answers, and the recordings they are of -> the answers, counted by a bar if there are several."""
    shown = shown and len(paths) > 1
    yield from progress_bar(answers, shown=shown, total=len(paths), desc="recordings", unit="recording")


def sentence_of(answer: Answer) -> str:
    """Answer -> why it failed, or what was notable about its file."""
    notes = "; ".join(filter(None, [*answer.notes, answer.cycles.note]))
    return one_line(str(answer.error) if answer.error else notes)


def status_table(answers: Sequence[Answer]) -> pd.DataFrame:
    """Recordings -> a row each: path, status, sentence, duration_s, cycles, not_judged, quality, quality_reason.

    Quality and reason are those of most of the cycles that are not judged, or of most cycles if all are.
    """
    rows = []
    for answer in answers:
        verdicts = answer.cycles.verdicts
        refused = [verdict for verdict in verdicts if not verdict.judged]
        ((most, _),) = Counter(refused or verdicts).most_common(1) or [(Verdict(""), 0)]
        how = ("failed" if answer.error else "ok", sentence_of(answer))
        counts = (answer.duration_s, len(verdicts), len(refused))
        rows.append((make_encodable(answer.path), *how, *counts, most.quality, most.reason))
    columns = ["path", "status", "sentence", "duration_s", "cycles", "not_judged", "quality", "quality_reason"]
    return pd.DataFrame(rows, columns=columns)


def rows_of(answers: Sequence[Answer]) -> pd.DataFrame:
    """Recordings -> a row per cycle: recording, cycle, start_s, end_s, label (None if not annotated), source, path."""
    rows = []
    for path, _, cycles, *_ in answers:
        labels = cycles.true_label or itertools.repeat(None)
        numbered = enumerate(zip(cycles.start_s, cycles.end_s, labels, strict=False), start=1)
        name, place = make_encodable(Path(path).stem), make_encodable(path)
        rows += [(name, n, *times_and_label, cycles.source, place) for n, times_and_label in numbered]
    columns = ["recording", "cycle", "start_s", "end_s", "label", "source", "path"]
    return pd.DataFrame(rows, columns=columns).astype({"cycle": "int64", "start_s": "float64", "end_s": "float64"})


def load(path_or_name: str | Path | None = None, device: str = "auto") -> Model:
    """Run folder or its checkpoint file -> Model; without one, or by the name `rales-small`, the model that comes with
    the package. Errors: an unfinished run, a file that is no trained model."""
    path = Path(path_or_name or DEFAULT)
    if str(path) == DEFAULT and not path.exists():
        path = DEFAULT_FOLDER / "model.safetensors"
        if not path.is_file():
            raise UsageError("no --model given, and this version ships none; give a run folder of `rales train`")

    own = None
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ValueError(f"{path}: no run folder (config.json is missing); give the --out of `rales train`")
        if not (path / "done").exists():
            raise ValueError(f"{path}: the run is not finished; the same train command goes on with it")
        own = run_folder.read_json(path / "config.json")
        if own.get("recipe") == "pretrain":
            raise ValueError(
                f"{path}: a pre-trained encoder, which names no classes; fine-tune it (rales train --weights)"
            )
        path = path / "best.safetensors"
    if path.suffix in (".onnx", ".xml"):
        raise ValueError(f"{path}: an artefact of `rales export` gives probabilities only; here give the run folder")

    tensors, record = run_folder.read_checkpoint(path)
    recipe = rebuild_recipe(record, str(path))
    if own is not None and (different := [name for name in IDENTITY if own.get(name) != record.get(name)]):
        raise ValueError(f"{path}: its {different[0]} is not that of config.json; the folder holds files of two runs")
    with size_errors_as_sentences(path):
        frontend = recipe.frontend(recipe.config)
    empty = build_without_memory(lambda: recipe.model(recipe.config), path)
    check_complete(tensors, finetune.tensors_of(empty, frontend), path)

    network = recipe.model(recipe.config)
    finetune.load_tensors(tensors, network, frontend)
    return Model(recipe, network, record, pick(device, 0), frontend=frontend)


def evaluate(
    run: Path, cycles: pd.DataFrame, *, progress: bool = False, cache_folder: Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Run folder and cycles table -> every figure on the test part of the run's split, per device and location, and
    on both leak-free repairs of the official split.

    A repair's test part may hold cycles that this run was trained on; their number stands beside its figures.
    """
    model = load(run, device)
    config, record = model.recipe.config, model.record
    if "epoch" not in record or "digest" not in record.get("split", {}):
        raise ValueError(f"{run}: its checkpoint does not say its epoch or its data; train or copy it again")
    table = splits.divide_cycles(cycles, config, needed=("test",))
    parts: dict[str, pd.Series[bool]] = {config.split.name: table["split"] == "test"}
    if config.split.name == "official":
        for repair in ("official_drop", "official_move"):
            there = set(splits.cycle_keys(splits.apply_split(cycles, repair).query("split == 'test'")))
            if there:  # else every test patient is trained on too
                parts[repair] = pd.Series([key in there for key in splits.cycle_keys(cycles)], index=cycles.index)
    items = prepared_rows(table.assign(split=""), model.recipe)  # no row trains here, so there are no copies
    waves = cached_waveforms(items, model.recipe, progress=progress, folder=cache_folder)
    validation = table["split"] == "validation"
    scored = scored_sides(model, cycles, items, waves, {**parts, "validation": validation})

    figures = {
        name: predictions.evaluation_metrics(
            table[rows],
            scored[name][rows],
            selected_epoch=record["epoch"],
            record=record,
            whole_database=predictions.is_whole_database(cycles),
        )
        for name, rows in parts.items()
    }
    own, rows = figures.pop(config.split.name), parts[config.split.name]
    of_test = scored[config.split.name][rows]
    true = [CLASSES.index(label) for label in table.loc[rows, "label"]]
    if validation.any():
        classes = np.array([CLASSES.index(label) for label in table["label"]])
        own |= predictions.metrics_from_validation(
            {"validation": classes[validation], "test": classes[rows]},
            {"validation": scored["validation"][validation], "test": of_test},
        )
    own["by_device"] = metrics_by_group(true, of_test, table.loc[rows, "device"].to_numpy())
    own["by_location"] = metrics_by_group(true, of_test, table.loc[rows, "location"].to_numpy())
    own["protocol"]["same_data_as_training"] = (
        run_folder.digest(table[table["split"] != ""]) == record["split"]["digest"]
    )
    own["leak_free"] = {
        name: {
            **{figure: part[figure] for figure in predictions.FIGURES},
            "ci95": part["ci95"],
            "cycles": part["protocol"]["cycles"],
            "cycles_trained_on": int((parts[name] & (table["split"] == "train")).sum()),
        }
        for name, part in figures.items()
    }
    own["model"] = model.digest
    own["notice"] = NOTICE
    return own


def scored_sides(
    model: Model, cycles: pd.DataFrame, items: pd.DataFrame, waves: Waves, sides: dict[str, "pd.Series[bool]"]
) -> dict[str, Probabilities]:
    """Cycles, what was prepared of them (one or several rows a cycle), and which of them are on which side -> side ->
    (cycles, classes) probabilities of its own, not calibrated; NaN elsewhere.

    A cycle on several sides is scored once, unless its answer depends on its neighbours: then each side is scored
    alone. Errors: an answer that is not a number.
    """
    keys, item_keys = splits.cycle_keys(cycles), splits.cycle_keys(items)

    def of(needed: NDArray[np.bool_]) -> Probabilities:
        wanted = {key: place for place, key in enumerate(keys) if needed[place]}
        chosen = np.flatnonzero([key in wanted for key in item_keys])
        answers = model.probabilities(waves, chosen)
        predictions.check_numbers(items.iloc[chosen], answers)
        found, probabilities = predictions.pool_cycle_probabilities(items.iloc[chosen], answers)
        scored = np.full((len(cycles), len(CLASSES)), np.nan)
        scored[[wanted[key] for key in splits.cycle_keys(found)]] = probabilities
        return scored

    there = {side: rows.to_numpy() for side, rows in sides.items()}
    if model.recipe.config.audio.scope == "batch":
        return {side: of(rows) for side, rows in there.items()}
    return dict.fromkeys(there, of(np.logical_or.reduce(list(there.values()))))
