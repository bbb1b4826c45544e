"""Milliseconds per 8 s clip of the two log-mel front-ends, beside nnAudio and librosa where they can be imported.

    python benchmarks/frontend.py --batch 16 --threads 1

All contenders take turns on the same waves, so that a busy machine disturbs them alike; the figure is the best turn.
"""

import argparse
import time
from collections.abc import Callable
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from rales.audio import IcbhiLogMel, M2DLogMel

SAMPLES = 128000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16, help="clips a call")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    waves = 0.1 * torch.randn(options.batch, SAMPLES, generator=torch.Generator().manual_seed(0))

    contenders: dict[str, Callable[[Tensor], Tensor]] = {
        "rales M2DLogMel": M2DLogMel(),
        "rales IcbhiLogMel": IcbhiLogMel(),
    }
    for name, make in (("nnAudio", nnaudio), ("librosa", librosa)):
        try:
            contenders[name] = make()
        except ImportError as error:
            print(f"{name}: not compared ({error})")

    with torch.inference_mode():
        reference = contenders["rales M2DLogMel"](waves)
        best = dict.fromkeys(contenders, float("inf"))
        for contender in contenders.values():
            contender(waves)
        for _ in range(options.turns):
            for name, contender in contenders.items():
                start = time.perf_counter()
                contender(waves)
                best[name] = min(best[name], (time.perf_counter() - start) / options.batch * 1000)
        print(f"{options.batch} clips of 8 s a call, {options.threads} thread(s)")
        for name, ms in best.items():
            line = f"{name:18s} {ms:7.3f} ms/clip  x {ms / best['rales M2DLogMel']:.2f}"
            if not name.startswith("rales"):
                line += f"  largest difference of the log-mel {(contenders[name](waves) - reference).abs().max():.1e}"
            print(line)


def nnaudio() -> Callable[[Tensor], Tensor]:
    """The front-end that M2D was published with."""
    mel = import_module("nnAudio.features").MelSpectrogram(
        sr=16000, n_fft=400, win_length=400, hop_length=160, n_mels=80, fmin=50, fmax=8000, center=True, power=2,
        verbose=False,
    )  # fmt: skip
    return lambda waves: (mel(waves) + 2.0**-23).log()[:, None]


def librosa() -> Callable[[Tensor], Tensor]:
    melspectrogram = import_module("librosa.feature").melspectrogram

    def logmel(waves: Tensor) -> Tensor:
        power = melspectrogram(
            y=waves.numpy(), sr=16000, n_fft=400, hop_length=160, n_mels=80, fmin=50, fmax=8000, pad_mode="reflect"
        )
        return torch.from_numpy(np.log(power + 2.0**-23))[:, None]

    return logmel


if __name__ == "__main__":
    main()
