"""A run folder, a checkpoint or the name of a model that comes with the package -> Predictor."""

from pathlib import Path

from rales.errors import UsageError
from rales.inference.predictor import Predictor
from rales.models import hub, model_hub
from rales.models.m2d_checkpoints import build_without_memory, check_complete, size_errors_as_sentences
from rales.recipes.registry import rebuild_recipe
from rales.training import finetune
from rales.training.distributed import choose_device
from rales.training.trained_model import read_trained_model


def load_model(path_or_name: str | Path | None = None, device: str = "auto") -> Predictor:
    """Load a trained model, to compute in PyTorch.

    Parameters
    ----------
    path_or_name
        Run folder or its checkpoint file, or the name of a model that comes with the package: `rales`, which None is
        too, or `rales-mn04`, whose public encoder is fetched at its first use; or `hf://user/name`.
    device
        `cpu`, `cuda`, `mps` or `auto`.

    Raises
    ------
    ValueError
        An unfinished run, or a file that is no trained model.
    OSError
        The public encoder of `rales-mn04` is not on this machine and cannot be fetched.
    """
    word = str(path_or_name or hub.DEFAULT_MODEL)
    path = model_hub.fetch_model(word) if model_hub.is_on_hub(word) else hub.SHIPPED.get(word, Path(word))
    if word in hub.SHIPPED and not path.is_file():
        raise UsageError(f"this copy of the package lacks its model {word}; give a run folder of `rales train`")

    path, tensors, record = read_trained_model(path)
    recipe = rebuild_recipe(record, str(path))

    # First without memory, so that a file which states other sizes than it holds costs none
    with size_errors_as_sentences(path):
        frontend = recipe.build_frontend(recipe.settings)
    empty = build_without_memory(lambda: recipe.build_model(recipe.settings), path)
    check_complete(tensors, finetune.tensors_of(empty, frontend), path)

    network = recipe.build_model(recipe.settings)
    finetune.load_tensors(tensors, network, frontend)
    return Predictor.from_network(recipe, network, record, choose_device(device, 0), frontend, path)
