"""A model as an encoder of mteb's audio benchmarks (MAEB): batches of samples in, a vector per sound out."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rales.inference.predictor import Predictor


class MtebEncoder:
    """What mteb asks of an audio encoder, without its package: `encode` of batches of sounds, {"audio": [{"array",
    "sampling_rate"}]}.

    Parameters
    ----------
    model
        A trained model, as of `rales.load`.
    layer
        Whose vector: a layer from 1, or None for the fused ones.

    A sound of any length and rate is cut into windows as `model.embed` does, and its vector is the mean of theirs, so
    the model's own window is kept whatever a benchmark sends.
    """

    def __init__(self, model: Predictor, layer: int | None = None) -> None:
        self.model, self.layer = model, layer

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> NDArray[np.float32]:
        """Batches -> (sounds, features) float32; what else mteb says of the task changes nothing. Errors: a batch
        without audio, samples that `model.embed` refuses."""
        vectors = [self.embed_sound(sound) for batch in inputs for sound in self.sounds_of(batch)]
        return np.concatenate(vectors) if vectors else np.empty((0, 0), dtype=np.float32)

    def sounds_of(self, batch: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        if "audio" not in batch:
            raise ValueError(f"a batch of {', '.join(batch) or 'nothing'}: this encoder hears audio alone")
        sounds: Iterable[Mapping[str, Any]] = batch["audio"]
        return sounds

    def embed_sound(self, sound: Mapping[str, Any]) -> NDArray[np.float32]:
        """One sound {"array", "sampling_rate"} -> (1, features)."""
        given = {"array": np.asarray(sound["array"]), "sampling_rate": int(sound["sampling_rate"])}
        return self.model.embed(given, layer=self.layer, per="recording", cycles="windows", quality=False)

    def similarity(self, one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.floating]:
        """(n, features), (m, features) -> (n, m) cosines."""
        unit = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in (one, other)]
        return np.asarray(unit[0] @ unit[1].T)
