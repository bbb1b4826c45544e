"""Checkpoints of a classifier on somebody else's frozen encoder: heads of ours, without its tensors.

They are added when the model is loaded, from the publisher's file, which is fetched by name at the first use. What the
heads were trained on is known by a digest of the tensors, whatever file they come in.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rales.errors import FileError
from rales.models import hub
from rales.models.pretrained_backbones import mobilenet_tensors

KEY = "borrowed_encoder"  # in the record of such a checkpoint

log = logging.getLogger(__name__)


def leave_out_encoder(
    tensors: Mapping[str, Tensor], name: str, file: str | Path
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a trained classifier, the public name of its frozen encoder and a file of that -> the tensors of ours,
    and what the record says of the others. Errors: a classifier that does not hold that encoder as it is published."""
    public = mobilenet_tensors(hub.find_checkpoint(file))[2]
    prefix = next((p for p in ("encoder.network.", "encoder.") if p + next(iter(public)) in tensors), "")
    if not all(torch.equal(tensors.get(prefix + key, torch.empty(0)), value) for key, value in public.items()):
        raise ValueError(f"the classifier does not hold the tensors of {name} as they are published")
    ours = {key: value for key, value in tensors.items() if key.removeprefix(prefix) not in public}
    return ours, {"name": name, "prefix": prefix, "sha256": digest_tensors(public)}


def add_encoder(tensors: dict[str, Tensor], record: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Tensors and record of a checkpoint -> all tensors of its model; the same if it lacks none.

    A public file that is not on this machine is fetched, which is logged. Errors: no connection, another file.
    """
    if (told := record.get(KEY)) is None:
        return tensors
    if not isinstance(told, dict) or told.get("name") not in hub.PUBLIC or not {"prefix", "sha256"} <= set(told):
        raise FileError(path, f"its record names no public encoder ({told}); make or copy the file again")
    name = str(told["name"])
    try:
        file = hub.find_fetched(name)
    except FileNotFoundError:
        public = hub.PUBLIC[name]
        log.warning("%s: fetching its encoder %s, once (%s; %s)", path.stem, name, public.address, public.licence)
        file = hub.fetch_checkpoint(name)
    encoder = mobilenet_tensors(file)[2]
    if digest_tensors(encoder) != told["sha256"]:
        raise FileError(file, f"holds another network than the {name} that {path.stem} was trained on; remove it")
    return {**tensors, **{f"{told['prefix']}{key}": value for key, value in encoder.items()}}


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Tensors by name -> SHA-256 of names, shapes and values, of whatever file they are."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
