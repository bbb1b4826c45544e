"""How much a gain changes answers: annotated cycles as recorded beside the same with another volume.

    python benchmarks/gain.py ICBHI_FOLDER [MODEL …]

For every model the share of labels that differ and the largest change of a probability; for every log-mel front-end the
mean change of its picture, in standard deviations of the picture. Half the volume is what one empty channel of two did
before empty channels were left out.
"""

import sys

import numpy as np
import torch

from rales.audio.logmel import IcbhiLogMel
from rales.data import read_cycles
from rales.data.dataset import load_dataset
from rales.data.waveform_cache import cache_waveforms
from rales.inference.load_model import load_model
from rales.models.hub import DEFAULT_MODEL
from rales.recipes.registry import make_recipe

GAINS = (2.0, 0.5, 0.1, 0.01)
CLIPS = 200  # for the pictures


def main(folder: str, models: list[str]) -> None:
    cycles = read_cycles(folder)
    print(f"{cycles['recording'].nunique()} recordings, {len(cycles)} cycles")
    for name in models or [DEFAULT_MODEL]:
        model = load_model(name)
        waves = np.array(load_dataset(cycles, model.recipe).inputs)
        plain = model.probabilities(waves)
        print(f"{name} ({model.recipe.settings.audio.frontend})")
        for gain in GAINS:
            changed = model.probabilities(waves * np.float32(gain))
            differ = (changed.argmax(axis=1) != plain.argmax(axis=1)).mean()
            print(f"  x {gain:<5g} {100 * differ:5.1f} % of the labels, {np.abs(changed - plain).max():.5f} at most")
    some = np.random.default_rng(0).permutation(len(cycles))[:CLIPS]
    clips = torch.from_numpy(np.array(cache_waveforms(cycles.iloc[some].reset_index(drop=True))))
    for kind in ("icbhi", "m2d", "m2d_clip"):
        recipe = make_recipe(
            "m2d_fusion", ["audio.floor=clip"] if kind == "m2d_clip" else [], size="tiny", frontend=kind
        )
        frontend = IcbhiLogMel() if kind == "icbhi" else recipe.build_frontend(recipe.settings)
        plain_picture = frontend(clips)
        deviation = plain_picture.std()
        changes = {gain: (frontend(clips * gain) - plain_picture).abs().mean() / deviation for gain in GAINS}
        told = [f"x {gain:g}: {change:.3f}" for gain, change in changes.items()]
        print(f"{kind}: mean change of the picture in SD, " + ", ".join(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
