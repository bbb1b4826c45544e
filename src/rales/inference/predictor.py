"""A trained model and recordings in, a table of cycles with probabilities out."""

from __future__ import annotations

import copy
import hashlib
import html
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rales.audio.open_audio import NoRoom
from rales.audio.quality import Verdict
from rales.data import icbhi
from rales.data.prefetch import prefetch_ahead
from rales.errors import FileError, UsageError
from rales.evaluation import conformal, predictions
from rales.evaluation.calibration import VALIDATION
from rales.evaluation.predictions import NOTICE, Decision
from rales.files.atomic import atomic_write
from rales.files.csv_cells import make_encodable, one_line
from rales.inference import audio_reader
from rales.inference.audio_reader import CycleChunk, Cycles
from rales.inference.engines import Engine, Waveforms
from rales.inference.samples import is_in_memory, recording_paths
from rales.labels import ICBHI, LabelSet
from rales.models import hub
from rales.optional_packages import explain_missing, package_versions, require_torch
from rales.progress import progress_bar
from rales.settings import scored_together
from rales.training.recipe import ExportedRecipe, Recipe
from rales.typing import Probabilities

if TYPE_CHECKING:  # pandas and torch take a first answer longer than all the rest; methods that need them import them
    import pandas as pd
    import torch

    from rales.data.dataset import CycleDataset
    from rales.inference.attribution import Explanation
    from rales.inference.torch_engine import TorchEngine

BATCH_CYCLES = 32  # scored at once; no answer depends on it but with audio.scope=batch, where the run says how many
TABLE_ROWS = 4096  # of a table that is handed on

ThresholdWord = Literal["validation", "classes", "none"]
Paths = str | Path | Iterable[str | Path]


class RecordingResult(NamedTuple):
    """One recording with a row of `values` per cycle that can be judged, or the error that kept it from being read."""

    path: str
    duration_s: float
    cycles: Cycles
    values: NDArray[Any]
    error: Exception | None
    notes: Sequence[str] = ()  # about its file, which was read all the same

    def values_of_all_cycles(self) -> NDArray[Any]:
        """(judged cycles, n) `values` -> (cycles, n), NaN where the sound cannot be judged."""
        values = np.full((len(self.cycles.verdicts), self.values.shape[1]), np.nan)
        values[self.cycles.judged] = self.values
        return values


class Predictor:
    """A trained classifier for recordings. `classes` are its words in the order of its probabilities, `label_set` says
    whether they exclude one another.

    Parameters
    ----------
    recipe
        How recordings become prepared cycles.
    record
        What the checkpoint says of itself: `classes`, and `calibration`, which is what patients taught it on whom it
        was not trained (`evaluation.calibration.Calibration`).
    engine
        Prepared cycles (B, samples) -> probabilities (B, classes): all of them come from it.
    torch_engine
        The same model in PyTorch, which alone has vectors and gradients; None for an exported artefact.
    workers
        Batches that are scored side by side, each by a thread.
    checkpoint
        The file that the model was loaded from, if it was.
    """

    def __init__(
        self,
        recipe: Recipe | ExportedRecipe,
        record: dict[str, Any],
        engine: Engine,
        torch_engine: TorchEngine | None = None,
        workers: int = 1,
        checkpoint: Path | None = None,
    ) -> None:
        self.preparation, self.record, self.engine, self.workers = recipe, record, engine, workers
        self.checkpoint = checkpoint
        self.label_set = LabelSet.from_record(record)
        self.classes = self.label_set.classes
        self.calibration: dict[str, Any] = record.get("calibration") or {}
        self._torch_engine = torch_engine

    @classmethod
    def from_network(
        cls,
        recipe: Recipe,
        network: torch.nn.Module,
        record: dict[str, Any],
        device: torch.device | str = "cpu",
        frontend: torch.nn.Module | None = None,
        checkpoint: Path | None = None,
    ) -> Predictor:
        """Recipe, its trained network and its record -> Predictor that computes in PyTorch, in float32."""
        import torch

        from rales.inference.torch_engine import TorchEngine

        frontend = frontend or recipe.build_frontend(recipe.settings)
        independent = LabelSet.from_record(record).independent
        engine = TorchEngine(frontend, network, torch.device(device), independent=independent)
        return cls(recipe, record, engine, engine, checkpoint=checkpoint)

    def with_engine(self, engine: Engine, workers: int = 1) -> Predictor:
        """-> the same model whose probabilities come from another engine."""
        other = copy.copy(self)
        other.engine, other.workers = engine, workers
        return other

    @cached_property
    def recipe(self) -> Recipe:
        """The system that trained the model; of an artefact, which answers without it, rebuilt when it is asked for.
        Errors: a recipe that is not here, PyTorch is not installed."""
        if isinstance(self.preparation, Recipe):
            return self.preparation
        require_torch("whatever a model does beside predict and plot")
        from rales.recipes.registry import rebuild_recipe

        return rebuild_recipe(self.record, str(self.checkpoint or "the artefact"))

    @property
    def torch_engine(self) -> TorchEngine:
        """The model in PyTorch. Errors: it is an exported artefact, PyTorch is not installed."""
        if self._torch_engine is None and self.checkpoint is not None:
            require_torch("whatever a model does beside predict and plot")
            from rales.inference.load_model import load_model  # which needs this class

            self._torch_engine = load_model(self.checkpoint, "cpu").torch_engine
        if self._torch_engine is None:
            raise ValueError(
                "an exported artefact holds no vectors, only probabilities; give the run folder as --model, or serve "
                "its run folder to see why"
            )
        return self._torch_engine

    @property
    def network(self) -> torch.nn.Module:
        """The network as it was trained. Errors: as of `torch_engine`."""
        return self.torch_engine.network

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights and of all settings: whether two answers are of the same model."""
        if self._torch_engine is None:  # the weights are not here
            return str(self.record["export"]["digest"])
        settings = json.dumps([self.record["recipe"], self.record["config"]], sort_keys=True)
        return hashlib.sha256((self.torch_engine.fingerprint() + settings).encode()).hexdigest()

    def __repr__(self) -> str:
        about = [self.preparation.name, ", ".join(self.classes), self._describe_sound()]
        about += [str(self._torch_engine.device) if self.engine is self._torch_engine else "exported"]
        about += ["calibrated"] if self.calibration else []
        return f"<Rales model {self.name}: {'; '.join(about)}>"

    def _repr_html_(self) -> str:
        rows = {"model": self.name, "system": self.preparation.name, "classes": ", ".join(self.classes)}
        rows |= {"hears": self._describe_sound(), "calibrated": self.calibration.get("origin", "no"), "": NOTICE}
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
        return f"<table>{cells}</table>"

    def _describe_sound(self) -> str:
        audio = self.preparation.audio
        return f"{audio.duration_s:g} s at {audio.rate_hz / 1000:g} kHz"

    @property
    def name(self) -> str:
        """Of the model that ships with the package, else its run folder or checkpoint."""
        if self.checkpoint is None:
            return "without a file"
        shipped = {path: name for name, path in hub.SHIPPED.items()}
        in_run = self.checkpoint.name == "best.safetensors"
        return shipped.get(self.checkpoint, str(self.checkpoint.parent if in_run else self.checkpoint))

    def to(self, device: str) -> Predictor:
        """Move the model to `cpu`, `cuda`, `cuda:1`, `mps` or `auto`, where it answers in PyTorch; -> itself. Errors: a
        device that is not there; an exported artefact."""
        self._torch_engine = self.torch_engine.moved_to(device)
        self.engine, self.workers = self._torch_engine, 1
        return self

    def save(self, path: str | Path) -> None:
        """Write the model, with its calibration, to a checkpoint (.safetensors) that `rales.load` takes. A file that is
        there is replaced. Errors: another suffix; an exported artefact."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise UsageError(f"{path}: expected the name of a checkpoint, one that ends in .safetensors")
        engine = self.torch_engine
        if self.checkpoint is not None and self.calibration:
            from rales.training.trained_model import save_calibration

            save_calibration(self.checkpoint, self.calibration, path)
        elif self.checkpoint is not None:
            with atomic_write(path) as beside:
                shutil.copyfile(self.checkpoint, beside)
        else:
            engine.save(path, self.record)

    @explain_missing("Predictor.push_to_hub")
    def push_to_hub(self, name: str, *, private: bool = True, licence: str = "", note: str = "") -> str:
        """Put the model on the hub -> the address that `rales.load` takes. Weights, settings (of paths
        the last part), figures of its test and hashed names of training recordings go there, no recording.

        Parameters
        ----------
        name
            "user/name".
        private
            Whether only those may see it whom its owner lets; a repository that is public already is refused.
        licence
            Of the weights, in the hub's words ("cc-by-4.0"); what they were trained from may bind you.
        note
            What the model card should say beside what the run recorded.
        """
        from rales.inference.share import push_to_hub  # which needs this class

        return push_to_hub(self, name, private=private, licence=licence, note=note)

    @explain_missing("Predictor.explain")
    def explain(
        self, recording: Any, cycle: int, target: str | None = None, *, sample_rate: int | None = None, **options: Any
    ) -> Explanation:
        """One recording (as of `predict`), number of a cycle from 1, class (None: the one predicted) -> which patches
        of time and frequency moved the decision; `.plot(file)` draws it, `.table()` lists it. Options and errors: those
        of `attribution.explain_cycle`."""
        from rales.inference.attribution import explain_cycle  # which needs this class

        with recording_paths(recording, sample_rate) as paths:
            return explain_cycle(self, str(paths), cycle, target, **options)

    def plot(self, recording: Any, *, sample_rate: int | None = None, **options: Any) -> Any:
        """One recording (as of `predict`, with its options) -> a matplotlib figure: spectrogram, cycles, answers.
        Errors: several recordings; matplotlib is not installed."""
        from rales.inference.recording_picture import plot_recording

        with recording_paths(recording, sample_rate) as path:
            if not isinstance(path, str | Path) or not Path(path).is_file():
                raise UsageError(f"{recording}: expected one recording of this machine, or samples")
            return plot_recording(path, self.predict(path, **options))

    def predict(
        self,
        paths: Any,
        problems: list[str] | None = None,
        decision: Decision | None = None,
        *,
        sample_rate: int | None = None,
        cycles: str = "auto",
        quality: bool = True,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Recordings, folders, globs, URLs, tables of them -> one row per cycle: recording, cycle, start_s, end_s,
        label, p_… (docs/recordings.md). Or one recording's samples, (N,) or (channels, N) with `sample_rate` in Hz,
        dict(waveform=, sample_rate=), or a file opened as bytes: its recording is `waveform` or the file's name, its
        path empty.

        Cycles come from an annotation beside the recording (then `true_label` is filled), else breaths are found in
        its sound, else windows are taken (`source` tells; `cycles` chooses, see `audio_reader.find_cycles`). What must
        stand beside the answers is `.attrs["notice"]`; `.attrs["model"]` and `["version"]` say what made them.

        A recording that cannot be read raises a ValueError that names it; with a `problems` list given, its sentence
        goes there and the other recordings are unaffected. A cycle whose sound cannot be judged has no label and NaN
        probabilities; `quality` and `quality_reason` say why (see audio.quality). With quality=False every cycle gets a
        label.
        """
        import pandas as pd

        from rales.inference.cycle_table import CycleTable

        with recording_paths(paths, sample_rate) as given:
            sources, where = audio_reader.find_sources(given, cycles)
            found = self.tables(sources, problems, decision, cycles=where, quality=quality, progress=progress)
            tables = [table for table, _ in found]
        result = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
        result.attrs.update(tables[0].attrs)
        if is_in_memory(paths):
            result["path"] = ""  # of the temporary file, which is gone
        table = CycleTable(result.drop(columns="true_label") if result["true_label"].isna().all() else result)
        table.attrs.update(result.attrs)
        return table

    __call__ = predict  # as the pipelines of other libraries are used

    def tables(
        self,
        paths: Sequence[str],
        problems: list[str] | None = None,
        decision: Decision | None = None,
        *,
        cycles: audio_reader.CycleSource = "auto",
        quality: bool = True,
        progress: bool = False,
    ) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        """`answers`, of the same parameters, each as a table with what `describe_answers` says."""
        decision = decision or self.decision()
        found = self.answers(paths, problems, decision, cycles=cycles, quality=quality, progress=progress)
        said = self.describe_answers(decision)
        return (make_tables(*columns, said) for columns in found)

    def describe_answers(self, decision: Decision) -> dict[str, str]:
        """How labels are decided -> what every output says once: the notice, and what made it, the model's digest and
        the version of Rales."""
        return {"notice": decision.notice, "model": self.digest, "version": package_versions(("rales",))["rales"]}

    def answers(
        self,
        paths: Sequence[str],
        problems: list[str] | None = None,
        decision: Decision | None = None,
        *,
        cycles: audio_reader.CycleSource = "auto",
        quality: bool = True,
        progress: bool = False,
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Recordings -> columns of their cycles and of their status (path, status, sentence, duration_s, cycles,
        not_judged, quality, quality_reason), some whole recordings at a time and at least once; errors as in
        `predict`."""
        decision = decision or self.decision()
        waiting, rows = list[RecordingResult](), 0
        results = self.results(paths, self.engine, problems, cycles, quality)
        shown = progress and len(paths) > 1
        for result in progress_bar(results, shown=shown, total=len(paths), desc="recordings", unit="recording"):
            waiting.append(result)
            rows += len(result.values)
            if rows >= TABLE_ROWS or len(waiting) >= TABLE_ROWS:
                yield self.make_columns(waiting, decision), make_status(waiting)
                waiting, rows = [], 0
        yield self.make_columns(waiting, decision), make_status(waiting)

    @explain_missing("Predictor.finetune")
    def finetune(
        self,
        data: str | Path | pd.DataFrame,
        out: str | Path,
        *,
        freeze: int | str = "none",
        epochs: int | None = None,
        progress: bool = False,
        **settings: Any,
    ) -> Predictor:
        """Train the model on with own recordings; -> the new model, this one stays as it is.

        Parameters
        ----------
        data
            Folder or file that `rales.data.read_cycles` reads, or a table: path, start_s, end_s, label, and patient and
            split where they are known. Without test rows a fifth of the patients tests.
        out
            Run folder to write.
        freeze
            What stays as it is: a number of the encoder's first blocks, "encoder" (all but head and weights of layers)
            or "none".
        epochs
            Passes over the training cycles; 30 if not given.
        progress
            Show bars.
        settings
            Of the recipe, by name, as of `rales.train`: lr=1e-4, select="validation", mixup=0.2.
        """
        from rales.inference.load_model import load_model
        from rales.inference.train import train_recipe

        if self.checkpoint is None:
            raise UsageError(
                "only a model of a run folder, a checkpoint or a name can be fine-tuned; an artefact of `rales export` "
                "cannot"
            )
        start: dict[str, Any] = {"from_model": str(self.checkpoint), "freeze": freeze, "epochs": epochs}
        train_recipe(None, data, out, progress=progress, **start, **settings)
        return load_model(out, str(self.torch_engine.device))

    @explain_missing("Predictor.calibrate")
    def calibrate(
        self, data: str | Path | pd.DataFrame, out: str | Path | None = None, *, progress: bool = False, **options: Any
    ) -> Predictor:
        """Learn temperature, thresholds, prediction sets and answers for recordings anew, from labelled cycles of five
        or more patients (ten for sets of 90 %), without training; -> the calibrated model, this one stays as it is.

        Parameters
        ----------
        data
            Folder, file or table of labelled cycles, as of `finetune`.
        out
            Checkpoint (.safetensors) to write.
        progress
            Show a bar.
        options
            Those of `calibrate.calibrate_model`: aim=0.2 or "balanced", labels="thresholds", part, trained.
        """
        from rales.inference.calibrate import calibrate_model  # which needs this class

        return calibrate_model(self, data, None if out is None else Path(out), progress=progress, **options)

    def decision(
        self,
        min_confidence: float = 0.0,
        threshold: float | ThresholdWord | None = None,
        sets: float | None = None,
    ) -> Decision:
        """How labels are to be decided -> Decision at this model's own temperature.

        Parameters
        ----------
        min_confidence
            A label that is less probable is marked uncertain.
        threshold
            Probability of the normal class, or a word: "validation" for that which the calibration found, "classes" for
            its threshold of each finding, "none" for the most probable class. None is what the calibration says, which
            is the most probable class where it says nothing.
        sets
            Nominal coverage of the sets of labels; None for none.

        Raises
        ------
        UsageError
            A threshold or sets that the model does not have.
        """
        known = self.calibration
        if threshold is None and known.get("labels") == "thresholds":
            threshold = "classes"
        limit = known.get("threshold") if threshold == "validation" else threshold
        of_findings = {name: found["threshold"] for name, found in known.get("classes", {}).items()}
        if (threshold == "validation" and limit is None) or (threshold == "classes" and not of_findings):
            raise UsageError(
                f"--threshold {threshold}: the model has no threshold of validation patients; train with --select "
                "validation, give it some (rales calibrate), or give a number"
            )
        caution = ""
        if self.preparation.scales_batches:
            caution = (
                "The model was trained with audio.scope=batch: an answer depends on the other cycles of the call, of "
                f"which {self.together} at a time, in the order given, are scaled together."
            )
        return Decision(
            temperature=known.get("temperature"),
            threshold=None if isinstance(limit, str) else limit,
            min_confidence=min_confidence,
            caution=caution,
            label_set=self.label_set,
            thresholds=of_findings if threshold == "classes" else None,
            sets=None if sets is None else conformal.choose_rule(known.get("conformal"), sets),
            origin=known.get("origin", VALIDATION),
        )

    @explain_missing("Predictor.evaluate")
    def evaluate(
        self,
        data: str | Path | pd.DataFrame,
        *,
        part: str | None = None,
        skip_damaged: bool = False,
        progress: bool = False,
        metrics: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Annotated data, or a table as of `finetune` -> the figures of `rales evaluate`; parameters and errors as of
        `evaluate.evaluate_data`."""
        from rales.inference.evaluate import evaluate_data  # which needs this class
        from rales.inference.train import table_file

        with table_file(data) as path:
            return evaluate_data(self, path, part=part, skip_damaged=skip_damaged, progress=progress, metrics=metrics)

    @property
    def has_own_rows(self) -> bool:
        """Whether the recipe makes more, or something else, of a cycle than one waveform as `audio` says."""
        own = self.preparation.rows is not None or self.preparation.prepare is not None
        return own or bool(self.taken_extras)

    @cached_property
    def taken_extras(self) -> tuple[str, ...]:
        """What must be known of a cycle beside its sound; nothing for an exported artefact."""
        engine = self._torch_engine
        return () if engine is None else engine.find_taken_extras(self.recipe)

    @property
    def together(self) -> int:
        """Cycles that are scored at once."""
        return scored_together(self.preparation, BATCH_CYCLES)

    def make_columns(self, results: Sequence[RecordingResult], decision: Decision) -> dict[str, Any]:
        """Recordings -> the columns of their cycles, with probabilities and labels."""
        read = [result for result in results if result.error is None]
        cycles = make_cycles(read)
        values = np.concatenate([np.empty((0, len(self.classes))), *(result.values_of_all_cycles() for result in read)])
        devices = [icbhi.device_of(name) for name in cycles["recording"]]
        answers = predictions.label_columns(values, decision, devices)
        last = {name: answers.pop(name) for name in ("uncertain",) if name in answers}
        verdicts = [verdict for result in read for verdict in result.cycles.verdicts]
        return {
            **{name: cycles[name] for name in ("recording", "cycle", "start_s", "end_s")},
            **answers,
            "true_label": cycles["label"],
            **last,
            "quality": [verdict.quality for verdict in verdicts],
            "quality_reason": [verdict.reason for verdict in verdicts],
            "source": cycles["source"],
            "path": cycles["path"],
        }

    def embed(
        self,
        paths: Any,
        *,
        sample_rate: int | None = None,
        layer: int | None = None,
        per: Literal["cycle", "recording"] = "cycle",
        cycles: str = "auto",
        quality: bool = True,
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Recordings, as of `predict` -> (rows, features) vectors of `embed_table`. Errors: none can be judged."""
        with recording_paths(paths, sample_rate) as given:
            table = self.embed_table(given, layer=layer, per=per, cycles=cycles, quality=quality, progress=progress)
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
        import pandas as pd

        tables, not_judged = list[pd.DataFrame](), list[str]()
        sources = audio_reader.find_recordings(paths)
        function = self.torch_engine.find_embedding(layer, self.recipe.name)
        results = self.results(sources, function, problems, cycles, quality, mean_per_cycle)
        shown = progress and len(sources) > 1
        for result in progress_bar(results, shown=shown, total=len(sources), desc="recordings", unit="recording"):
            rows = pd.DataFrame(make_cycles([result])).drop(columns=["label", "source"])[result.cycles.judged]
            vectors = result.values
            not_judged += predictions.unjudged_sentences(make_status([result]))
            if per == "recording" and len(rows):
                rows = rows.head(1).assign(cycle=0, start_s=0.0, end_s=result.duration_s)
                vectors = vectors.mean(axis=0, keepdims=True)
            if result.error is None:
                tables.append(rows.assign(vector=list(vectors)))

        empty = pd.DataFrame(make_cycles([])).drop(columns=["label", "source"]).assign(vector=[])
        table = pd.concat([each for each in tables if len(each)] or [empty], ignore_index=True)
        table.attrs["not_judged"] = not_judged
        return table

    def results(
        self,
        paths: Iterable[str],
        function: Callable[..., NDArray[Any]],
        problems: list[str] | None,
        cycles: audio_reader.CycleSource = "auto",
        quality: bool = True,
        pool_rows: Callable[[pd.DataFrame, NDArray[Any]], NDArray[Any]] | None = None,
    ) -> Iterator[RecordingResult]:
        """Recordings -> what a function of (B, …) inputs says of their cycles, batched across recordings, in order.

        Of several rows of one cycle `pool_rows` makes one, by a vote if none is given.
        """
        own = self.prepare_spans if self.has_own_rows else None
        parts, failure = list[NDArray[Any]](), None
        reading = audio_reader.read_ahead(
            paths, self.preparation.audio, cycles, gate=quality, prepare=own, label_set=self.label_set
        )

        # Closed whatever happens, else readers wait for someone to take their chunks and keep the process from ending
        with closing(reading), ThreadPoolExecutor(self.workers, thread_name_prefix="rales-score") as pool:
            batches = audio_reader.fill_batches(reading, self.together)
            begun = ((batch, pool.submit(score_batch, batch, function)) for batch in batches)
            for batch, future in prefetch_ahead(begun, self.workers - 1):
                values = future.result()
                for chunk in batch:
                    part, values = np.split(values, [len(chunk.waveforms)])
                    if not np.isfinite(part).all():
                        failure = not_a_number_error(chunk.path, chunk.waveforms)
                    if len(part):
                        parts.append(part)
                    if chunk.last:
                        if chunk.rows is not None and parts and not failure:
                            vote = partial(vote_per_cycle, label_set=self.label_set)
                            parts = [(pool_rows or vote)(chunk.rows, np.concatenate(parts))]
                        yield self.finish_recording(chunk, parts, chunk.error or failure, problems)
                        parts, failure = [], None

    def finish_recording(
        self, chunk: CycleChunk, parts: list[NDArray[Any]], error: Exception | None, problems: list[str] | None
    ) -> RecordingResult:
        """Last chunk of a recording and the values of all -> its result. Errors: its own, if no `problems` take it."""
        if error is not None:
            if problems is None or isinstance(error, NoRoom) or not isinstance(error, ValueError | OSError):
                raise error
            problems.append(one_line(str(error)))
            parts = []  # a recording that breaks off has no answer, also where its first cycles had one
        values = np.concatenate(parts) if parts else np.empty((0, len(self.classes)))
        if self.preparation.scales_batches and len(values):  # scored as neighbours of the others
            values = values[chunk.cycles.judged]
        return RecordingResult(chunk.path, chunk.duration_s, chunk.cycles, values, error, chunk.notes)

    def prepare_spans(self, file: Path, spans: Sequence[tuple[float, float]]) -> CycleDataset:
        """Recording and stretches (start_s, end_s) of it -> the recipe's own rows of them; `cycle` counts from 1."""
        import pandas as pd

        from rales.data.dataset import check_extras, prepare_dataset

        table = pd.DataFrame(spans, columns=["start_s", "end_s"], dtype=np.float64)
        path = pd.Series([str(file)] * len(table), dtype=object)  # str columns take UTF-8 alone
        cycle = np.arange(1, len(table) + 1)
        named = table.assign(recording=make_encodable(file.stem), cycle=cycle, label=None, split="", path=path)
        dataset = prepare_dataset(named.assign(device=icbhi.device_of(file.stem)), self.recipe)
        check_extras(dataset, self.taken_extras)
        return dataset

    def score_spans(self, file: Path, spans: Sequence[tuple[float, float]]) -> Probabilities:
        """Recording and stretches (start_s, end_s) of it -> (n, classes), not calibrated."""
        if self.has_own_rows:
            dataset = self.prepare_spans(file, spans)
            values = self.probabilities(dataset.inputs, extras=dataset.extras)
            return vote_per_cycle(dataset.table, values, self.label_set) if len(spans) else values
        return self.probabilities(audio_reader.read_spans(file, spans, self.preparation.audio))

    def probabilities(
        self,
        waveforms: Waveforms,
        rows: NDArray[np.intp] | None = None,
        extras: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> Probabilities:
        """(N, …) prepared cycles, the rows of them that are asked for, and named extras of all -> (n, classes), not
        calibrated."""
        rows = np.arange(len(waveforms)) if rows is None else rows
        chunks = [rows[start : start + self.together] for start in range(0, len(rows), self.together)]
        batches = [
            self.engine(waveforms[chunk], **{name: np.array(each[chunk]) for name, each in extras.items()})
            for chunk in chunks
        ]
        return np.concatenate([np.empty((0, len(self.classes))), *batches])


def vote_per_cycle(rows: pd.DataFrame, values: NDArray[Any], label_set: LabelSet = ICBHI) -> NDArray[Any]:
    """Rows, one or several a cycle, and their (rows, classes) probabilities -> (cycles, classes): the rows vote."""
    voted: NDArray[Any] = predictions.pool_cycle_probabilities(rows, values, label_set)[1]
    return voted


def mean_per_cycle(rows: pd.DataFrame, values: NDArray[Any]) -> NDArray[Any]:
    """Rows, one or several a cycle, and their (rows, n) vectors -> (cycles, n) means."""
    cycle = rows["cycle"].to_numpy()
    return np.stack([values[cycle == number].mean(axis=0) for number in dict.fromkeys(cycle.tolist())])


def score_batch(batch: Sequence[CycleChunk], function: Callable[..., NDArray[Any]]) -> NDArray[Any]:
    """Chunks -> what the function says of all their cycles."""
    filled = [chunk for chunk in batch if len(chunk.waveforms)]
    if not filled:
        return np.empty((0, 0))
    extras = {name: np.concatenate([chunk.extras[name] for chunk in filled]) for name in filled[0].extras}
    return function(np.concatenate([chunk.waveforms for chunk in filled]), **extras)


def not_a_number_error(path: str, waveforms: Waveforms) -> ValueError:
    """Recording, and what the model was given when its answer was NaN or infinite -> what to say of the recording."""
    return FileError(
        path,
        f"the model's answer to one of its cycles is not a number, so none of them has a label; it was given "
        f"values up to {np.abs(waveforms).max():.3g}; if those of a wave pass 1, the recording is damaged, else the "
        "model",
    )


def describe_result(result: RecordingResult) -> str:
    """Result -> why it failed, or what was notable about its file."""
    notes = "; ".join(filter(None, [*result.notes, result.cycles.note]))
    return one_line(str(result.error) if result.error else notes)


def make_tables(
    cycles: dict[str, Any], status: dict[str, Any], said: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Columns of `Predictor.answers`, and what `Predictor.describe_answers` says -> tables."""
    import pandas as pd

    table = pd.DataFrame(cycles)
    table.attrs.update(said)
    return table, pd.DataFrame(status)


def make_status(results: Sequence[RecordingResult]) -> dict[str, list[Any]]:
    """Recordings -> columns with a row each: path, status, sentence, duration_s, cycles, not_judged, quality,
    quality_reason.

    Quality and reason are those of most of the cycles that are not judged, or of most cycles if all are.
    """
    rows = []
    for result in results:
        verdicts = result.cycles.verdicts
        refused = [verdict for verdict in verdicts if not verdict.judged]
        ((most, _),) = Counter(refused or verdicts).most_common(1) or [(Verdict(""), 0)]
        status = ("failed" if result.error else "ok", describe_result(result))
        counts = (result.duration_s, len(verdicts), len(refused))
        rows.append((make_encodable(result.path), *status, *counts, most.quality, most.reason))
    names = ("path", "status", "sentence", "duration_s", "cycles", "not_judged", "quality", "quality_reason")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def make_cycles(results: Sequence[RecordingResult]) -> dict[str, Any]:
    """Recordings -> columns with a row per cycle: recording, cycle, start_s, end_s, label (None if not annotated),
    source, path."""
    of_each = [(result, len(result.cycles.start_s)) for result in results]
    return {
        "recording": [make_encodable(Path(result.path).stem) for result, count in of_each for _ in range(count)],
        "cycle": np.array([number for _, count in of_each for number in range(1, count + 1)], dtype=np.int64),
        "start_s": np.array([time for result, _ in of_each for time in result.cycles.start_s], dtype=np.float64),
        "end_s": np.array([time for result, _ in of_each for time in result.cycles.end_s], dtype=np.float64),
        "label": [label for result, count in of_each for label in result.cycles.true_label or [None] * count],
        "source": [result.cycles.source for result, count in of_each for _ in range(count)],
        "path": [make_encodable(result.path) for result, count in of_each for _ in range(count)],
    }
