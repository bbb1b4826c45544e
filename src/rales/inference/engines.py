"""What computes the probabilities of prepared cycles: PyTorch here, the runtimes of exported artefacts in `export`."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rales.data.dataset import select_extras
from rales.models.cpu_inference import prepack_for_cpu
from rales.models.heads import class_probabilities

Waveforms = NDArray[np.float32]  # (B, samples): cycles as training saw them
Probabilities = NDArray[np.floating[Any]]  # (B, classes), not calibrated

ARTEFACT_SUFFIXES = {"openvino": ".xml", "onnx": ".onnx"}  # of the files that `rales export` writes, by its --to


class Engine(Protocol):
    """Front-end, network and softmax, or sigmoid of independent classes. Threads may call it side by side.

    Engines of exported artefacts see waveforms alone; what else a recipe knows of cycles comes as named extras.
    """

    def __call__(self, waveforms: Waveforms, /, *args: Any, **extras: Any) -> Probabilities:
        """Prepared cycles (B, …) -> (B, classes)."""
        ...


class TorchEngine:
    """The engine that is always there, and the only one that also has vectors and gradients.

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

    def __call__(self, waveforms: Waveforms, /, **extras: Tensor) -> Probabilities:
        """Prepared cycles (B, …), named extras -> (B, classes) float64."""
        logits = torch.from_numpy(self.apply(self.packed_network, waveforms, **extras)).double()
        return class_probabilities(logits, independent=self.independent).numpy()

    @torch.inference_mode()
    def apply(self, function: Callable[..., Tensor], waveforms: Waveforms, **extras: Tensor) -> NDArray[np.float32]:
        """Function of the front-end's output and of the extras that the network takes, (B, …) -> (B, …) float32."""
        extras = {name: values.to(self.device) for name, values in extras.items()}
        inputs = torch.from_numpy(waveforms).to(self.device)
        features = self.frontend(inputs, **select_extras(self.frontend, extras))
        result: NDArray[np.float32] = function(features, **select_extras(self.network, extras)).float().cpu().numpy()
        return result


class FallbackEngine:
    """An engine that nobody asked for, until it fails; from then on another answers in its place.

    Parameters
    ----------
    engine
        Answers first.
    fallback
        Answers once `engine` has failed.
    report_failure
        Called with the error, once.
    """

    def __init__(self, engine: Engine, fallback: Engine, report_failure: Callable[[Exception], None]) -> None:
        self.engine, self.fallback, self.report_failure = engine, fallback, report_failure
        self.failed = threading.Event()

    def __call__(self, waveforms: Waveforms, /, **extras: Tensor) -> Probabilities:
        if not self.failed.is_set():
            try:
                return self.engine(waveforms, **extras)
            except Exception as error:
                self.failed.set()
                self.report_failure(error)
        return self.fallback(waveforms, **extras)
