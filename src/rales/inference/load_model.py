"""A run folder, a checkpoint or the name of the model that comes with the package -> Predictor."""

from pathlib import Path

from rales.errors import FileError, UsageError
from rales.inference.engines import ARTEFACT_SUFFIXES
from rales.inference.predictor import Predictor
from rales.models import hub
from rales.models.m2d_checkpoints import build_without_memory, check_complete, size_errors_as_sentences
from rales.recipes.registry import rebuild_recipe
from rales.training import finetune, run_folder
from rales.training.distributed import choose_device

IDENTITY = ("recipe", "recipe_source", "config", "seed")  # of a run, in config.json and in its checkpoints
DEFAULT, DEFAULT_FOLDER = hub.SHIPPED, hub.SHIPPED_FILE.parent


def load_model(path_or_name: str | Path | None = None, device: str = "auto") -> Predictor:
    """Load a trained model, to compute in PyTorch.

    Parameters
    ----------
    path_or_name
        Run folder or its checkpoint file; None, or the name `rales-small`, is the model that comes with the package.
    device
        `cpu`, `cuda`, `mps` or `auto`.

    Raises
    ------
    ValueError
        An unfinished run, or a file that is no trained model.
    """
    path = Path(path_or_name or DEFAULT)
    if str(path) == DEFAULT and not path.exists():
        path = DEFAULT_FOLDER / "model.safetensors"
        if not path.is_file():
            raise UsageError("no --model given, and this version ships none; give a run folder of `rales train`")

    run_record = None
    if path.is_dir():
        run_record = read_run_record(path)
        path = path / "best.safetensors"
    if path.suffix in ARTEFACT_SUFFIXES.values():
        raise FileError(path, "an artefact of `rales export` gives probabilities only; here give the run folder")
    tensors, record = run_folder.read_checkpoint(path)
    recipe = rebuild_recipe(record, str(path))
    if run_record is not None and (
        different := [name for name in IDENTITY if run_record.get(name) != record.get(name)]
    ):
        raise FileError(path, f"its {different[0]} is not that of config.json; the folder holds files of two runs")

    # First without memory, so that a file which states other sizes than it holds costs none
    with size_errors_as_sentences(path):
        frontend = recipe.build_frontend(recipe.settings)
    empty = build_without_memory(lambda: recipe.build_model(recipe.settings), path)
    check_complete(tensors, finetune.tensors_of(empty, frontend), path)

    network = recipe.build_model(recipe.settings)
    finetune.load_tensors(tensors, network, frontend)
    return Predictor.from_network(recipe, network, record, choose_device(device, 0), frontend)


def read_run_record(folder: Path) -> dict[str, object]:
    """Run folder -> config.json. Errors: no run folder, an unfinished run, one that names no classes."""
    if not (folder / "config.json").exists():
        raise FileError(folder, "no run folder (config.json is missing); give the --out of `rales train`")
    if not (folder / "done").exists():
        raise FileError(folder, "the run is not finished; the same train command goes on with it")
    record: dict[str, object] = run_folder.read_json(folder / "config.json")
    if record.get("recipe") == "pretrain":
        raise FileError(folder, "a pre-trained encoder, which names no classes; fine-tune it (rales train --weights)")
    return record
