"""How far apart the pictures of a cycle are by its resampler: python benchmarks/resamplers.py DATA [--cycles 60]

For every native rate in a folder of ICBHI recordings and each front-end: mean distance of the standardised values from
those of the resampler in the published code, and the share of values that are more than a quarter of a standard
deviation away. Published are torchaudio's short sinc (`sinc`; m2d_fusion, moummad, ast) and librosa's Kaiser-windowed
sinc of 64 zero crossings (`kaiser`, built here from its published constants; respirenet). Prints Markdown.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import nn

from rales.audio import icbhi_cycle, read_audio_info, read_waveform, resample_waveform
from rales.audio.padding import pad_by_repetition
from rales.audio.spectrogram_images import RespireNetImage
from rales.data import read_cycles
from rales.recipes.registry import make_recipe

Wave = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cycles", type=int, default=60, help="of every native rate, at most")
    arguments = parser.parse_args()

    cycles = read_cycles(arguments.data)
    rates = {path: read_audio_info(path).rate_hz for path in set(cycles["path"])}
    cycles = cycles.assign(rate_hz=cycles["path"].map(rates))
    print("| front-end | published | ours | native rate | cycles | mean distance | further than 0.25 |")
    print("|---|---|---|---|---|---|---|")
    for rate_hz in sorted(set(rates.values())):
        rows = cycles[cycles["rate_hz"] == rate_hz]
        rows = rows.sample(min(arguments.cycles, len(rows)), random_state=0)
        waves = [read_waveform(*row)[0] for row in rows[["path", "start_s", "end_s"]].itertuples(index=False)]
        for name, to_hz, picture, published, ours in systems():
            far = [
                picture(resampled(w, rate_hz, to_hz, ours)) - picture(resampled(w, rate_hz, to_hz, published))
                for w in waves
            ]
            distance = torch.cat([d.abs().flatten() for d in far])
            mean, share = distance.mean().item(), (distance > 0.25).float().mean().item()
            print(f"| {name} | {published} | {ours} | {rate_hz} Hz | {len(waves)} | {mean:.3f} | {100 * share:.1f} % |")


def systems() -> Iterator[tuple[str, int, Callable[[Wave], torch.Tensor], str, str]]:
    """-> name, rate, function (N,) -> standardised picture, resampler of the published code, one to set beside it."""
    for name in ("m2d_fusion", "moummad_ce", "ast_ft"):
        recipe = make_recipe(name)
        yield name, 16000, partial(drawn, recipe.build_frontend(recipe.settings), icbhi_cycle), "sinc", "soxr"
    for ours in ("soxr", "sinc"):
        fill = partial(pad_by_repetition, samples=32000)
        yield "respirenet", 4000, partial(drawn, RespireNetImage(), fill), "kaiser", ours


def drawn(frontend: nn.Module, fill: Callable[[Wave], Wave], wave: Wave) -> torch.Tensor:
    """Front-end, what makes a cycle as long as it wants, and a cycle (N,) -> its picture."""
    picture: torch.Tensor = frontend(torch.from_numpy(fill(wave))[None])
    return picture


def resampled(wave: Wave, rate_hz: int, to_hz: int, method: str) -> Wave:
    """Wave (N,) at rate_hz -> at to_hz, by "soxr", "sinc" or "kaiser"."""
    if method != "kaiser":
        return resample_waveform(wave, rate_hz, to_hz, "sinc" if method == "sinc" else "soxr")
    if rate_hz == to_hz:
        return wave
    common = math.gcd(rate_hz, to_hz)
    up, down = to_hz // common, rate_hz // common
    # resampy's kaiser_best, librosa's default of those years, on a grid of 1 / max(up, down)
    step, zeros, rolloff, beta = max(up, down), 64, 0.9475937167399596, 14.769656459379492
    place = np.arange(-zeros * step, zeros * step + 1) / step
    taps = np.sinc(rolloff * place) * np.kaiser(place.size, beta)
    return np.asarray(resample_poly(wave.astype(np.float64), up, down, window=taps / taps.sum()), dtype=np.float32)


if __name__ == "__main__":
    main()
