"""The mean spectrum of each recording device, from which systems correct what a device does to the sound."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rales.audio.filters import mean_spectrum
from rales.data.dataset import CycleDataset
from rales.data.loader import ordered_batches


def measure_device_spectra(dataset: CycleDataset, chosen: NDArray[np.bool_], fft_samples: int) -> dict[int, Tensor]:
    """Waveforms with an extra `device_number` -> device number -> (bins,) mean STFT magnitude of its rows.

    Parameters
    ----------
    dataset : CycleDataset
        Waveforms (N, samples).
    chosen : array of bool, (N,)
        The rows that count. Devices without one are left out.
    fft_samples : int
        Length of the STFT's windows.
    """
    device_number = dataset.extras["device_number"]
    spectra = {}
    for number in np.unique(device_number[chosen]).tolist():
        rows = np.flatnonzero(chosen & (device_number == number))
        total = torch.zeros(fft_samples // 2 + 1)
        for batch in ordered_batches(dataset, 16, rows=rows):
            total += len(batch.rows) * mean_spectrum(batch.inputs, fft_samples)
        spectra[int(number)] = total / len(rows)
    return spectra
