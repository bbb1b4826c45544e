"""The array types of the package, under the names that its signatures use."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]  # samples of sound, (N,) or (B, N)
Float32Array = NDArray[np.float32]  # whatever else is computed from sound
FloatArray = NDArray[np.float64]
RealArray = NDArray[np.floating[Any]]  # of either precision
IntArray = NDArray[np.int64]  # class numbers, row numbers, counts
IndexArray = NDArray[np.intp]
Probabilities = NDArray[np.float64]  # (N, classes)
Row = dict[str, Any]  # of a database or of JSON: column -> value


class Columns(Protocol):
    """Columns of equal length by name: a dict of them, or a table of pandas, which takes half a second to import."""

    def __getitem__(self, name: str, /) -> Any: ...
    def __contains__(self, name: Any, /) -> bool: ...
