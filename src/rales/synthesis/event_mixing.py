"""Mix simulated crackles and wheezes into real normal cycles, so that labels do not depend on the patient.

In a database of a few dozen patients whoever crackles also has an age, a stethoscope and a room, and a network may
learn those instead. Here the same breath is normal once and crackles once, so that only the crackle tells them apart.
The sounds are those of `simulator`; the idea of mixing events into real backgrounds is DCASE's and Salamon et al.'s
(Scaper, WASPAA 2017), to breath sounds it is ours.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray

from rales.audio.io import read_waveform, resample_waveform
from rales.data.splits import MADE_OF
from rales.files.atomic import atomic_write, remove_abandoned
from rales.labels import CLASSES
from rales.progress import progress_bar
from rales.synthesis import simulator
from rales.typing import FloatArray

CLASS_FRACTIONS = (0.5, 0.2, 0.2, 0.1)  # of the classes among the breaths that are made
LOUDNESS_DB = (-6.0, 3.0)  # of what is laid over, against the simulator's usual level above the breath around it
TURBULENCE = 0.25  # of all breaths have a band of noise, which is no wheeze
CLICKS = 0.2  # of all breaths have knocks on the stethoscope, which are no crackles
SHORTEST_S = 0.3  # a shorter breath stays as it is and gives no row


def mix_events_into_cycles(
    cycles: pd.DataFrame, out: Path, *, variants: int, seed: int, progress: bool = False
) -> pd.DataFrame:
    """Cycles table -> rows of `variants` new recordings of each recording in it, written to `out` (WAV, 8 kHz).

    A new recording is the old one with something laid over its normal cycles, drawn anew for each variant: nothing,
    crackles, a wheeze or both (SHARES). Its rows are those cycles with their new labels; patient, device and all other
    columns stay. A file that is there already is taken as it is, so a call that was interrupted goes on. The same seed
    gives the same sounds. Errors: those of reading; no normal cycle of 0.3 s or more.
    """
    long_enough = cycles["end_s"] - cycles["start_s"] >= SHORTEST_S
    normal = cycles[(cycles["label"] == CLASSES[0]) & long_enough]
    if normal.empty:
        raise ValueError(f"no normal cycle of {SHORTEST_S} s or more among {len(cycles)}; nothing can be laid over it")
    if out.is_dir():
        remove_abandoned(out)
    jobs = [(rows, number) for _, rows in normal.groupby("path", sort=True) for number in range(variants)]
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda job: make_variant(job[0], out, job[1], seed), jobs)
        bar = progress_bar(made, shown=progress, total=len(jobs), unit="recording", desc="overlay")
        tables: list[pd.DataFrame] = list(bar)
        return pd.concat(tables, ignore_index=True)


def make_variant(rows: pd.DataFrame, out: Path, number: int, seed: int) -> pd.DataFrame:
    """Normal cycles of one recording -> the same rows with the labels and the file of variant `number`."""
    source = rows.iloc[0]
    rng = np.random.default_rng([seed, number, zlib.crc32(str(source["recording"]).encode())])
    chosen = rng.choice(len(CLASSES), size=len(rows), p=CLASS_FRACTIONS)
    spans = list(zip(rows["start_s"], rows["end_s"], strict=True))
    # Of all that makes the sound, so that no file is taken for another with other labels
    made_of = [source["path"], seed, number, spans, chosen.tolist(), LOUDNESS_DB, TURBULENCE, CLICKS]
    name = f"{source['recording']}{MADE_OF}{number}_{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]}"
    path = out / f"{name}.wav"
    if not path.exists():
        wave, rate_hz = read_waveform(source["path"])
        real = resample_waveform(wave, rate_hz, simulator.RATE_HZ).astype(np.float64)
        encoded = io.BytesIO()  # a full disk is then an OSError, not an error of the sound library
        soundfile.write(encoded, mix_events(real, spans, chosen, rng), simulator.RATE_HZ, "PCM_16", format="WAV")
        with atomic_write(path) as beside:
            beside.write_bytes(encoded.getvalue())
    return rows.assign(
        recording=name,
        label=[CLASSES[c] for c in chosen],
        crackle=(chosen == 1) | (chosen == 3),
        wheeze=chosen >= 2,
        path=str(path),
    ).astype({"crackle": int, "wheeze": int})


def mix_events(
    real: FloatArray, spans: Sequence[tuple[float, float]], chosen: NDArray[Any], rng: np.random.Generator
) -> FloatArray:
    """Recording (N,) at 8 kHz, its breaths in s and their classes -> (N,) within +-1."""
    sound = real.copy()
    for (start_s, end_s), label in zip(spans, chosen, strict=True):
        breath = np.array([start_s, start_s + (end_s - start_s) * rng.uniform(0.35, 0.5), end_s])
        if rng.random() < TURBULENCE:
            simulator.add_turbulence(sound, real, breath, rng)
        if rng.random() < CLICKS:
            add_clicks(sound, real, breath, rng)
        chest, around = draw_person(rng), real * 10 ** (rng.uniform(*LOUDNESS_DB) / 20)
        if label in (1, 3):
            simulator.add_crackles(sound, around, breath, chest, rng)
        if label >= 2:
            simulator.add_wheeze(sound, around, breath, chest, rng)
    return sound / max(1.0, float(np.abs(sound).max()))


def add_clicks(sound: FloatArray, background: FloatArray, breath: FloatArray, rng: np.random.Generator) -> None:
    """Put one to three knocks into `sound`, in place."""
    start_s, _, end_s = breath
    inside = background[int(start_s * simulator.RATE_HZ) : int(end_s * simulator.RATE_HZ)]
    level = simulator.CRACKLE_PEAK * simulator.band_rms(inside, 60, 1500)
    for at_s in rng.uniform(start_s, end_s, rng.integers(1, 4)):
        simulator.add_in_place(
            sound, int(at_s * simulator.RATE_HZ), level * rng.lognormal(0, 0.5) * simulator.simulate_click(rng)
        )


def draw_person(rng: np.random.Generator) -> simulator.Chest:
    """-> someone's crackles and wheezes, drawn as widely as `simulator` draws them over its patients."""
    return simulator.Chest(
        cutoff=1.0,
        heart_rate_hz=1.2,
        heart_level=1.0,
        fine_share=float(rng.beta(0.5, 0.5)),
        two_cycle=float(rng.lognormal(0, 0.15)),
        wheeze_hz=float(np.clip(rng.lognormal(np.log(320), 0.45), 110, 900)),
        polyphony=float(rng.beta(1, 3)),
    )
