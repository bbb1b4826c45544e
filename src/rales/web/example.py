"""A simulated recording for the page to begin with: which breath holds crackles or wheezes is known."""

from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from rales.audio import io
from rales.data.events import EXPIRATION, Event
from rales.labels import LabelSet
from rales.synthesis.simulator import Chest, simulate_recording
from rales.typing import Row
from rales.web.cycle_edits import in_milliseconds
from rales.web.sandbox import PAGE_RATE_HZ

ID: Final = "example"
NAME: Final = "A simulated recording"
DURATION_S: Final = 20.0
RATE_HZ: Final = 16_000
SEED: Final = 8
CHEST: Final = Chest(
    cutoff=1.2, heart_rate_hz=1.15, heart_level=0.5, fine_share=0.3, two_cycle=1.0, wheeze_hz=420.0, polyphony=0.3
)
LOCATION, DEVICE = "Pr", "AKGC417L"
# start, turn to expiration and end in s, crackles, wheezes
BREATHS: Final = (
    (0.4, 1.7, 3.5, 0, 0),
    (3.5, 4.8, 6.7, 1, 0),
    (6.7, 8.0, 10.0, 0, 1),
    (10.0, 11.3, 13.3, 1, 1),
    (13.3, 14.6, 16.5, 0, 0),
    (16.5, 17.8, 19.7, 0, 1),
)


def write_example(folder: Path) -> None:
    """Folder that is made here -> audio.wav (what models hear), audio.txt (the breaths in ICBHI format) and page.wav
    (what the browser plays)."""
    folder.mkdir(parents=True, exist_ok=True)
    breaths = np.array(BREATHS)
    wave = simulate_recording(
        breaths[:, :3],
        breaths[:, 3] > 0,
        breaths[:, 4] > 0,
        chest=CHEST,
        location=LOCATION,
        device=DEVICE,
        duration_s=DURATION_S,
        rate_hz=RATE_HZ,
        rng=np.random.default_rng(SEED),
    )
    soundfile.write(folder / "audio.wav", wave, RATE_HZ, subtype="FLOAT")
    lines = [f"{start}\t{end}\t{crackle}\t{wheeze}\n" for start, _, end, crackle, wheeze in BREATHS]
    (folder / "audio.txt").write_text("".join(lines))
    played = io.resample_waveform(wave.astype(np.float32), RATE_HZ, PAGE_RATE_HZ)
    soundfile.write(folder / "page.wav", np.clip(played, -1, 1), PAGE_RATE_HZ, subtype="PCM_16")


def known_events() -> list[Row]:
    """-> where the expiration of each breath begins."""
    return [Event(EXPIRATION, turn, turn)._asdict() for _, turn, *_ in BREATHS]


def known_cycles(label_set: LabelSet) -> list[Row]:
    """-> the breaths with the labels of a set; none where it has no words for crackles and wheezes."""
    try:
        labels = [label_set.label_cycle("", crackle, wheeze) for *_, crackle, wheeze in BREATHS]
    except ValueError:
        return []
    return [
        in_milliseconds({"start_s": start, "end_s": end, "label": label, "confirmed": False}, DURATION_S)
        for (start, _, end, *_), label in zip(BREATHS, labels, strict=True)
    ]
