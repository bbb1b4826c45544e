"""Load a model by path or name, with the engine that is to compute its probabilities.

The model of the package and artefacts answer by a runtime of their own; whatever else there is needs PyTorch, which is
imported for it alone.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rales import registry
from rales.errors import FileError, MissingFileError, UsageError
from rales.export.artefact import EXPORT_TARGETS, find_target, open_artefact, share_engine
from rales.inference.predictor import Predictor
from rales.models import hub, model_hub
from rales.optional_packages import is_installed, require_torch

AUTO_ENGINE_MIN_RECORDINGS = 64  # recordings for which it pays to look for the fastest engine

Tell = Callable[[str], None]


def load_with_engine(
    path_or_name: str | Path | None = None,
    engine: str = "auto",
    device: str = "auto",
    *,
    recordings: int = 0,
    tell: Tell = lambda _: None,
) -> Predictor:
    """Artefact, or anything `rales.load` takes -> Model whose probabilities come from the engine asked for.

    The model of the package answers by its ONNX graph. An artefact is its own engine; that of a target in a file needs
    `engine` FILE.py:NAME, since nothing in an artefact names code that is run. Of a run, `onnx` and `openvino` are made
    once, in float32, and kept in the cache; `auto` is the fastest of those that agree with torch to 1e-5, asked once
    when many `recordings` wait, else torch; whatever keeps an engine that nobody asked for from being had is told, and
    torch computes. Many are scored side by side where engines have fewer threads than there are processors. `tell`
    takes sentences for the person. Errors: an artefact that is damaged or not ours, a package that is missing or fails.
    """
    if engine not in ("auto", "torch"):
        find_target(engine)
    many, name = recordings >= AUTO_ENGINE_MIN_RECORDINGS, str(path_or_name or hub.DEFAULT_MODEL)
    name = next((word for word, file in hub.SHIPPED.items() if str(file) == name), name)
    path, to = Path(name), artefact_format(Path(name), engine)
    if to is not None and not path.is_file():
        raise FileError(path, "there is no such file; `rales export` writes one")
    if to is not None and engine not in ("auto", to):
        raise UsageError(f"--engine {engine}: {path} is an artefact for {to}; give the run folder instead")
    if to is not None:
        found = open_artefact(path, to)
        return share_engine(found) if many else found

    if name in hub.GRAPHS and device in ("auto", "cpu") and engine in ("auto", "onnx"):
        try:
            found = open_artefact(hub.GRAPHS[name], "onnx", hub.SHIPPED[name])
            return share_engine(found) if many else found
        except (ValueError, OSError) as error:
            if engine == "onnx" or not is_installed("torch"):
                raise
            tell(f"the graph of {name} cannot be used here, so torch computes: {error}")
    if not (name in hub.SHIPPED or model_hub.is_on_hub(name) or path.exists()):
        raise MissingFileError(
            path,
            "no such checkpoint; expected a run folder of `rales train`, its best.safetensors, or the name of a model: "
            f"{', '.join(hub.SHIPPED)}, hf://USER/NAME",
        )
    asked = f"--engine {engine} for " * (engine != "auto") or f"--device {device} for " * (
        device not in ("auto", "cpu")
    )
    require_torch(f"{asked}the model {name}")
    from rales.export.engine_selection import load_run_with_engine

    return load_run_with_engine(path_or_name, engine, device, many=many, tell=tell)


def artefact_format(path: Path, engine: str = "auto") -> str | None:
    """File name and the engine asked for -> the target of `rales export` that its suffix stands for: one of ours, of
    this process, of an installed package, or the engine."""
    others = [*registry.EXPORT_TARGETS.list_names(), *([engine] if engine not in ("auto", "torch") else [])]
    for word in dict.fromkeys([*EXPORT_TARGETS, *others]) if path.suffix else {}:
        with suppress(UsageError):  # a package that cannot be loaded keeps nobody from other files
            if find_target(word).suffix == path.suffix:
                return word
    return None
