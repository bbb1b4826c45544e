"""The engine that computes in PyTorch, and what else only PyTorch can: vectors, other devices, saving a network."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.data.dataset import PreparesRows, find_taken_extras, select_extras
from rales.errors import UsageError
from rales.inference.engines import Probabilities, Waveforms
from rales.models.classifier import stop_after
from rales.models.cpu_inference import prepack_for_cpu
from rales.models.heads import class_probabilities
from rales.models.layer_fusion import mean_plus_max
from rales.models.m2d_checkpoints import fingerprint_encoder
from rales.training.distributed import choose_device
from rales.training.finetune import tensors_of
from rales.training.run_folder import save_tensors
from rales.typing import Float32Array


class TorchEngine:
    """The only engine that also has vectors and gradients; needs the extra `train`.

    Parameters
    ----------
    frontend
        Waveforms (B, samples) -> features of the network.
    network
        Features -> logits (B, classes), as it was trained.
    device
        Where both compute.
    precision
        Of the copy of the network that answers, `float32` or `bf16`: the same answers to 1e-5 in float32, faster on a
        processor, no gradients. None answers with the network itself.
    independent
        Whether each class is a yes or no of its own.
    """

    def __init__(
        self,
        frontend: nn.Module,
        network: nn.Module,
        device: torch.device,
        precision: str | None = "float32",
        *,
        independent: bool = False,
    ) -> None:
        self.frontend, self.network = frontend.to(device).eval(), network.to(device).eval()
        self.device, self.precision, self.independent = device, precision, independent

    @cached_property
    def packed_network(self) -> nn.Module:
        """The network that answers, made when it is first asked."""
        return prepack_for_cpu(self.network, self.precision) if self.precision else self.network

    def moved_to(self, device: str) -> "TorchEngine":
        """-> the same on `cpu`, `cuda`, `cuda:1`, `mps` or `auto`. Errors: a device that is not there."""
        chosen = choose_device(device, 0)
        return TorchEngine(self.frontend, self.network, chosen, self.precision, independent=self.independent)

    def find_taken_extras(self, recipe: PreparesRows) -> tuple[str, ...]:
        """-> the extras of the recipe that front-end or network take."""
        return find_taken_extras(recipe, self.frontend, self.network)

    def fingerprint(self) -> str:
        """-> SHA-256 of the network's weights."""
        return fingerprint_encoder(self.network)

    def save(self, path: Path, record: dict[str, Any]) -> None:
        """Write a checkpoint of front-end and network with this record."""
        save_tensors(path, tensors_of(self.network, self.frontend), record)

    def __call__(self, waveforms: Waveforms, /, **extras: NDArray[Any]) -> Probabilities:
        """Prepared cycles (B, …), named extras -> (B, classes) float64."""
        logits = torch.from_numpy(self.apply(self.packed_network, waveforms, **extras)).double()
        return class_probabilities(logits, independent=self.independent).numpy()

    @torch.inference_mode()
    def apply(self, function: Callable[..., Tensor], waveforms: Waveforms, **extras: NDArray[Any]) -> Float32Array:
        """Function of the front-end's output and of the extras that the network takes, (B, …) -> (B, …) float32."""
        known = {name: torch.as_tensor(values).to(self.device) for name, values in extras.items()}
        inputs = torch.from_numpy(waveforms).to(self.device)
        features = self.frontend(inputs, **select_extras(self.frontend, known))
        result: Float32Array = function(features, **select_extras(self.network, known)).float().cpu().numpy()
        return result

    def find_embedding(self, layer: int | None, system: str) -> Callable[..., Float32Array]:
        """Layer, or None for the fused ones, and the name of the model's system -> (B, samples) -> (B, features).
        Errors: a network without, a layer that it has not."""
        embed = getattr(self.packed_network, "embed", None)
        encoder = getattr(self.packed_network, "encoder", None)
        if embed is None or (layer is not None and encoder is None):
            raise ValueError(f"a model of recipe {system} has no embedding; use one of m2d_fusion")
        if layer is None or encoder is None:
            return lambda waveforms, **extras: self.apply(embed, waveforms, **extras)
        if not 1 <= layer <= encoder.depth:
            raise UsageError(f"--layer {layer}: the encoder has layers 1 to {encoder.depth}, or say fused")

        stop = stop_after(encoder, layer)

        def pool_layer(logmel: Tensor) -> Tensor:
            return mean_plus_max(encoder(logmel, **stop)[layer - 1])

        return lambda waveforms, **extras: self.apply(pool_layer, waveforms, **extras)
