"""A model as an encoder of mteb's audio benchmarks (MAEB): batches of samples in, a vector per sound out."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rales.inference.predictor import Predictor

Vectors = NDArray[np.floating]


class MtebEncoder:
    """What mteb asks of an audio encoder (`mteb.evaluate(MtebEncoder(model), tasks)`): `encode` of batches of sounds,
    {"audio": [{"array", "sampling_rate"}]}, similarities, and who it is. Its package is imported for the last alone.

    Takes a trained model, as of `rales.load`, and the layer whose vector is wanted (from 1; None for the fused ones).
    A sound of any length and rate is cut into windows as `model.embed` does, and its vector is the mean of theirs, so
    the model's own window is kept whatever a benchmark sends.
    """

    def __init__(self, model: Predictor, layer: int | None = None) -> None:
        self.model, self.layer = model, layer

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> Vectors:
        """Batches -> (sounds, features) float32; what else mteb says of the task changes nothing. Errors: a batch
        without audio, samples that `model.embed` refuses."""
        vectors = []
        for batch in inputs:
            if "audio" not in batch:
                raise ValueError(f"a batch of {', '.join(batch) or 'nothing'}: this encoder hears audio alone")
            for sound in batch["audio"]:
                given = {"array": np.asarray(sound["array"]), "sampling_rate": int(sound["sampling_rate"])}
                options: dict[str, Any] = {"per": "recording", "cycles": "windows", "quality": False}
                vectors.append(self.model.embed(given, layer=self.layer, **options))
        return np.concatenate(vectors) if vectors else np.empty((0, 0), dtype=np.float32)

    def similarity(self, one: Vectors, other: Vectors) -> Vectors:
        """(n, features), (m, features) -> (n, m) cosines."""
        return np.asarray(to_unit_length(one) @ to_unit_length(other).T)

    def similarity_pairwise(self, one: Vectors, other: Vectors) -> Vectors:
        """(n, features), (n, features) -> (n,) cosines of those in the same place."""
        return np.asarray((to_unit_length(one) * to_unit_length(other)).sum(axis=1))

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's `ModelMeta`: the model's name and digest, and the layer, under which results are kept."""
        from mteb.models import ModelMeta

        layer = f"-layer-{self.layer}" if self.layer else ""
        about = {"name": f"rales/{self.model.name}{layer}", "revision": self.model.digest, "modalities": ["audio"]}
        return ModelMeta.create_empty(about)


def to_unit_length(vectors: Vectors) -> Vectors:
    """(n, features) or (features,) -> (n or 1, features)."""
    rows = np.atleast_2d(vectors)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
