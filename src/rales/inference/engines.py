"""What computes the probabilities of prepared cycles: PyTorch (`torch_engine`), or the runtimes of exported artefacts
(`export`)."""

import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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

    def __call__(self, waveforms: Waveforms, /, **extras: NDArray[Any]) -> Probabilities:
        if not self.failed.is_set():
            try:
                return self.engine(waveforms, **extras)
            except Exception as error:
                self.failed.set()
                self.report_failure(error)
        return self.fallback(waveforms, **extras)
