"""What a network said of every validation and test cycle after every epoch: `epochs.safetensors` of a run folder.

Every way to choose the epoch, its figures and intervals can be made from it, so no protocol needs a run of its own.
E scored epochs, n cycles, L fused layers:

`epoch` (E,) int64; `test` and, if patients are held out, `validation` (E, n, classes) float16 logits, row i that of
row i of predictions.csv and predictions_validation.csv; `layers` (L,) int64 and `layer_weights` (E, L) float32, where
layers are fused. The file is written anew after every epoch and renamed into place; an epoch that is repeated replaces
itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rales.files.json_files import DAMAGED
from rales.training import run_folder

FILE = "epochs.safetensors"
LEAST, LOWEST = -(2.0**-24), -65504.0  # of float16: the negative number nearest to 0, and the lowest finite one


def half_logits(logits: Tensor, *, independent: bool = False) -> Tensor:
    """(n, classes) float32 logits -> float16 with the same softmax (to 2e-4) and the very same most probable class.

    The largest of a row becomes 0 exactly, and whatever was below it stays below: rounding alone would make ties of
    classes that are closer than float16 tells apart, and a tie goes to the first class. Logits of independent classes
    stay what they are, and above 0 (yes) or not.
    """
    if independent:
        half = logits.clamp(LOWEST, -LOWEST).half()
        return torch.where((half == 0) & (logits > 0), torch.tensor(-LEAST, dtype=torch.float16), half)
    below = logits.double() - logits.double().amax(dim=1, keepdim=True)
    half = below.clamp(min=LOWEST).half()
    return torch.where((half == 0) & (below < 0), torch.tensor(LEAST, dtype=torch.float16), half)


def append_epoch(folder: Path, epoch: int, tensors: Mapping[str, Tensor]) -> None:
    """Add an epoch's logits and layer weights; `layers`, which every epoch shares, goes in as it is."""
    shared = {name: tensors[name] for name in ("layers",) if name in tensors}
    new = {"epoch": torch.tensor(epoch), **{name: value for name, value in tensors.items() if name not in shared}}
    stacked = {name: value.detach().cpu()[None] for name, value in new.items()}
    if earlier := read_epochs(folder):
        apart = {name: value.shape[1:] for name, value in stacked.items()}
        if apart != {name: value.shape[1:] for name, value in earlier.items() if name not in shared}:
            raise ValueError(f"{folder / FILE}: what it holds of earlier epochs is not of these cycles; {DAMAGED}")
        kept = earlier["epoch"] < epoch  # what a killed run wrote of this epoch goes
        stacked = {name: torch.cat([torch.from_numpy(earlier[name][kept]), value]) for name, value in stacked.items()}
    run_folder.save_tensors(folder / FILE, {**stacked, **shared}, {"epoch": epoch})


def truncate_logits(folder: Path, epoch: int, scored: set[int]) -> None:
    """Before a run goes on after epoch `epoch`, of whose epochs `scored` have test figures: drop what is there of later
    ones, which it repeats. Errors: an epoch that is not there."""
    found = read_epochs(folder)
    if missing := scored - set(found["epoch"].tolist() if found else []):
        raise ValueError(f"{folder / FILE}: holds nothing of epoch {min(missing)}; {DAMAGED}")
    if not found or found["epoch"].max(initial=0) <= epoch:
        return
    kept = found["epoch"] <= epoch
    if not kept.any():
        (folder / FILE).unlink()
        return
    tensors = {name: torch.from_numpy(value if name == "layers" else value[kept]) for name, value in found.items()}
    run_folder.save_tensors(folder / FILE, tensors, {"epoch": int(found["epoch"][kept].max())})


def read_epochs(folder: Path) -> dict[str, NDArray[Any]]:
    """Run folder -> the arrays named above, epochs ascending; empty if there is no such file. ValueError: damaged."""
    if not (folder / FILE).exists():
        return {}
    tensors, _ = run_folder.read_checkpoint(folder / FILE)
    check_arrays(tensors, folder / FILE)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def check_arrays(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Tensors of the file -> nothing. Errors: they are not those named above, or not finite numbers."""
    scored = tuple(tensors["epoch"].shape)[:1] if "epoch" in tensors else ()
    layers = tuple(tensors["layers"].shape)[:1] if "layers" in tensors else ()
    wide = {tuple(tensors[part].shape)[2:] for part in ("test", "validation") if part in tensors}
    kinds = {
        "epoch": (torch.int64, 1, scored),
        "test": (torch.float16, 3, scored),
        "validation": (torch.float16, 3, scored),
        "layers": (torch.int64, 1, layers),
        "layer_weights": (torch.float32, 2, (*scored, *layers)),
    }
    for name, value in {"epoch": torch.empty(0), **tensors}.items():
        dtype, axes, start = kinds.get(name, (None, 0, ()))
        shape = tuple(value.shape)
        fitting = value.dtype == dtype and value.ndim == axes and shape[: len(start)] == start
        if not fitting or (axes == 3 and wide != {shape[2:]}) or 0 in shape[1:] or not value.isfinite().all():
            raise ValueError(f"{path}: {name} of shape {shape} is not what a run says after its epochs; {DAMAGED}")
    if not (tensors["epoch"].diff() > 0).all():
        raise ValueError(f"{path}: its epochs do not ascend; {DAMAGED}")
