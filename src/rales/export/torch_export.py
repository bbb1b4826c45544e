"""A classifier as one graph from waveform to probabilities, ready to be written for another runtime."""

import torch
from torch import Tensor, nn

from rales.errors import UsageError
from rales.export.conv_stft import replace_fft
from rales.export.target import quiet_libraries
from rales.inference.predictor import Predictor
from rales.models.heads import class_probabilities


class WaveToProbabilities(nn.Module):
    """Wave (B, samples) -> (B, classes) float32 probabilities: front-end without FFT, network, softmax (sigmoid where
    the classes are independent)."""

    def __init__(self, frontend: nn.Module, network: nn.Module, *, independent: bool = False) -> None:
        super().__init__()
        self.frontend, self.network, self.independent = replace_fft(frontend), network, independent

    def forward(self, wave: Tensor) -> Tensor:
        logits: Tensor = self.network(self.frontend(wave))
        return class_probabilities(logits, independent=self.independent)


def wave_to_probabilities(model: Predictor) -> WaveToProbabilities:
    """Model -> one module, of its own front-end, which may have been fitted or trained, and its network, not packed.

    Errors: a front-end that mixes the clips of a batch.
    """
    if model.recipe.scales_batches:
        raise UsageError(
            "the run was trained with audio.scope=batch, where a cycle's probabilities depend on its neighbours in the "
            "batch; an artefact gives one answer, so train with audio.scope=clip"
        )
    engine, independent = model.torch_engine, model.label_set.independent
    return WaveToProbabilities(engine.frontend, engine.network, independent=independent).eval()


def trace_graph(module: nn.Module, samples: int) -> torch.export.ExportedProgram:
    """Module of (B, samples) -> its graph for any number of clips, input `wave`."""
    with quiet_libraries(), torch.no_grad():
        example = torch.zeros(2, samples)
        batch = {0: torch.export.Dim("batch", min=1)}
        return torch.export.export(module, (example,), dynamic_shapes={"wave": batch}, strict=False)
