"""The registry of models that a service offers, by name; the two used last stay in memory."""

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from rales.evaluation import recordings
from rales.export.load import artefact_format, load_with_engine
from rales.files.csv_cells import one_line
from rales.files.json_files import parse_json, read_json
from rales.inference.predictor import Predictor
from rales.labels import LabelSet
from rales.models.hub import DEFAULT_MODEL, GRAPHS, SHIPPED
from rales.report.load_runs import run_folders
from rales.training import run_folder

HELD = 2
MODEL = "model.safetensors"  # of a folder of a model that was learned


class LearnedModel(NamedTuple):
    """A model that the page has made: name of its folder, what people call it, where it is from, its checkpoint."""

    id: str
    name: str
    origin: str
    source: Path


class ModelRegistry:
    """Names -> run folders. A visitor's word is looked up here and never opened."""

    def __init__(self, default: str | None, folder: Path | None, learned: Path | None = None) -> None:
        """`default` is a run folder, checkpoint file or artefact, None for the package's own; `folder` holds runs,
        `learned` the models that the page has made (see `learning.py`)."""
        self.folder, self.learned_folder = folder, learned
        self.learned = dict[str, LearnedModel]()  # by name
        word = default or DEFAULT_MODEL
        self.default = word if word in SHIPPED else Path(word).absolute().name
        self.sources = {self.default: str(SHIPPED.get(word, word))}
        self.loaded: OrderedDict[str, Predictor] = OrderedDict()
        self.told: dict[str, dict[str, Any]] = {}
        self.pooling: dict[str, Any] = {}  # of the default model: how its cycles speak for their recording
        self.look()

    def look(self) -> None:
        """Find the finished runs, and the models that were learned, that are there now."""
        known = {model.id for model in self.learned.values()}
        for model in list_learned(self.learned_folder):
            if model.id not in known and self.is_new(model.source):
                name = model.name if model.name not in self.sources else f"{model.name} ({model.id[:4]})"
                self.learned[name] = model
                self.sources[name] = str(model.source)
        if self.folder is None:
            return
        for run in run_folders([self.folder]):
            name = run.relative_to(self.folder).as_posix() if run != self.folder else run.name
            if (run / "done").is_file() and (run / "best.safetensors").is_file() and self.is_new(run):
                self.sources[name if name not in self.sources else f"{name} (runs)"] = str(run)

    def is_new(self, run: Path) -> bool:
        return run.resolve() not in {Path(source).resolve() for source in list(self.sources.values())}

    def listed(self) -> list[dict[str, Any]]:
        """-> name, default, recipe and label set of every model; a run whose record cannot be read is left out."""
        self.look()
        found = []
        for name, source in list(self.sources.items()):  # another request may find a model meanwhile
            if (facts := self.facts(name, source)) is not None:
                learned = self.learned.get(name)
                about = {"learned": learned.id, "origin": learned.origin} if learned else {}
                found.append({"name": name, "default": name == self.default, **facts, **about})
        return found

    def facts(self, name: str, source: str) -> dict[str, Any] | None:
        """-> recipe and label set as a model's record tells them, None if it cannot be read."""
        if name not in self.told:
            try:
                self.told[name] = model_facts(read_record(Path(source)))
            except (OSError, ValueError, KeyError, TypeError):
                return None
        return self.told[name]

    def known_digest(self, name: str) -> str:
        """-> which weights and settings a model is, "" of one that was not loaded yet."""
        return str(self.told.get(name, {}).get("digest", ""))

    def known(self, name: str | None) -> str:
        """A visitor's word, or None for the default -> a name of this registry. KeyError with a sentence."""
        if name is None or name == "":
            return self.default
        if name not in self.sources:
            self.look()
        if name not in self.sources:
            raise KeyError(f"no model {name!r} here; GET /models lists those that are")
        return name

    def record(self, name: str) -> dict[str, Any]:
        """A name of this registry -> what the model's record says. Errors: it cannot be read, or is an artefact's."""
        return read_record(Path(self.sources[name]))

    def forget(self, learned: str) -> LearnedModel | None:
        """Id of a model that was learned -> that model under the name it was offered by, which it is no longer. None
        for another id."""
        for name, model in list(self.learned.items()):
            if model.id == learned:
                for known in (self.learned, self.sources, self.told):
                    known.pop(name, None)
                return model._replace(name=name)
        return None

    def model(self, name: str) -> Predictor:
        """Name -> the model, loaded if it is not; called by the model's thread alone. Errors as those of `load`."""
        source = self.sources.get(name)
        if source is None:
            raise ValueError(f"the model {name} has been removed; choose another one")
        if source not in self.loaded:  # a name may be given again
            self.loaded[source] = load_with_engine(source, engine_of(source))
            self.told[name] = {**model_facts(self.loaded[source].record), "digest": self.loaded[source].digest}
            if name == self.default:
                self.pooling = self.loaded[source].calibration.get("recordings") or {}
        self.loaded.move_to_end(source)
        while len(self.loaded) > HELD:
            self.loaded.popitem(last=False)
        return self.loaded[source]

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


def read_record(source: Path) -> dict[str, Any]:
    """Run folder or checkpoint -> its record, without the weights. Errors: it has none that can be read."""
    if source.is_dir():
        record = run_folder.read_json(source / "config.json")
    else:
        try:
            with safe_open(source, framework="pt") as file:
                record = parse_json((file.metadata() or {}).get("rales", ""), str(source))
        except SafetensorError as error:
            raise ValueError(f"{source}: no checkpoint of `rales train` ({error})") from error
    if isinstance(record, dict):
        return record
    raise ValueError(f"{source}: its record is no object")


def list_learned(folder: Path | None) -> list[LearnedModel]:
    """Folder of the models that were learned -> those that are whole, the oldest first."""
    found = []
    for place in folder.iterdir() if folder is not None and folder.is_dir() else ():
        try:
            told = read_json(place / "learned.json")
            name, origin = one_line(str(told["name"]))[:60], one_line(str(told["origin"]))[:500]
            made = (place / MODEL).stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append((made, LearnedModel(place.name, name or place.name, origin, place / MODEL)))
    return [model for _, model in sorted(found)]


def engine_of(source: str) -> str:
    """A run computes in torch, as the command does without a word about engines; an artefact, and what ships with one,
    has its own engine."""
    has_own = artefact_format(Path(source)) or Path(source) in map(SHIPPED.get, GRAPHS)
    return "auto" if has_own else "torch"


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
