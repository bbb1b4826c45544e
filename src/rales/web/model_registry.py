"""The registry of models that a service offers, by name; the two used last stay in memory."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

from rales.evaluation import recordings
from rales.export.engine_selection import artefact_format, load_with_engine
from rales.inference.predictor import Predictor
from rales.labels import LabelSet
from rales.models.hub import DEFAULT_MODEL, SHIPPED
from rales.report.load_runs import run_folders
from rales.training import run_folder

HELD = 2


class ModelRegistry:
    """Names -> run folders. A visitor's word is looked up here and never opened."""

    def __init__(self, default: str | None, folder: Path | None) -> None:
        """`default` is a run folder, checkpoint file or artefact, None for the package's own; `folder` holds runs."""
        self.folder = folder
        word = default or DEFAULT_MODEL
        self.default = word if word in SHIPPED else Path(word).absolute().name
        self.sources = {self.default: str(SHIPPED.get(word, word))}
        self.loaded: OrderedDict[str, Predictor] = OrderedDict()
        self.told: dict[str, dict[str, Any]] = {}
        self.pooling: dict[str, Any] = {}  # of the default model: how its cycles speak for their recording
        self.look()

    def look(self) -> None:
        """Find the finished runs that are there now."""
        if self.folder is None:
            return
        for run in run_folders([self.folder]):
            name = run.relative_to(self.folder).as_posix() if run != self.folder else run.name
            if (run / "done").is_file() and (run / "best.safetensors").is_file() and self.is_new(run):
                self.sources[name if name not in self.sources else f"{name} (runs)"] = str(run)

    def is_new(self, run: Path) -> bool:
        return run.resolve() not in {Path(source).resolve() for source in self.sources.values()}

    def listed(self) -> list[dict[str, Any]]:
        """-> name, default, recipe and label set of every model; a run whose record cannot be read is left out."""
        self.look()
        found = []
        for name, source in self.sources.items():
            if (facts := self.facts(name, source)) is not None:
                found.append({"name": name, "default": name == self.default, **facts})
        return found

    def facts(self, name: str, source: str) -> dict[str, Any] | None:
        """-> recipe and label set as a model's record tells them, None if it cannot be read."""
        if name not in self.told:
            try:
                record = run_folder.read_json(Path(source) / "config.json")
                self.told[name] = model_facts(record)
            except (OSError, ValueError, KeyError, TypeError):
                return None
        return self.told[name]

    def known(self, name: str | None) -> str:
        """A visitor's word, or None for the default -> a name of this registry. KeyError with a sentence."""
        if name is None or name == "":
            return self.default
        if name not in self.sources:
            self.look()
        if name not in self.sources:
            raise KeyError(f"no model {name!r} here; GET /models lists those that are")
        return name

    def model(self, name: str) -> Predictor:
        """Name -> the model, loaded if it is not; called by the model's thread alone. Errors as those of `load`."""
        if name not in self.loaded:
            self.loaded[name] = load_with_engine(self.sources[name], engine_of(self.sources[name]))
            self.told[name] = {**model_facts(self.loaded[name].record), "digest": self.loaded[name].digest}
            if name == self.default:
                self.pooling = self.loaded[name].calibration.get("recordings") or {}
        self.loaded.move_to_end(name)
        while len(self.loaded) > HELD:
            self.loaded.popitem(last=False)
        return self.loaded[name]

    def label_set(self, name: str) -> LabelSet:
        """Name -> what the model tells apart; called by the model's thread alone."""
        return self.model(name).label_set

    def changed(self, name: str) -> float:
        """-> when a model's checkpoint was written, in seconds since 1970; infinity for a model that is not here."""
        source = Path(self.sources.get(name, ""))
        for file in (source / "best.safetensors", source):
            if name in self.sources and file.is_file():
                return file.stat().st_mtime
        return float("-inf") if name in self.sources else float("inf")


def engine_of(source: str) -> str:
    """A run computes in torch, as the command does without a word about engines; an artefact is its own engine."""
    return "auto" if artefact_format(Path(source)) else "torch"


def model_facts(record: dict[str, Any]) -> dict[str, Any]:
    label_set = LabelSet.from_record(record)
    classes = [str(word) for word in label_set.classes]
    pooling = (record.get("calibration") or {}).get("recordings")
    answers = recordings.pooling_notice(pooling) if label_set.is_icbhi else ""
    return {
        "recipe": str(record["recipe"]),
        "classes": classes,
        "independent": label_set.independent,
        "answers": answers,
        "digest": "",  # of one that was not loaded yet
    }
