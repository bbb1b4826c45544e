"""A made-up database: patients, sessions, labels and sounds, written as a folder in the layout of ICBHI 2017."""

import io
import shutil
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from rales.data.simulator import CUTOFF_HZ, Array, Chest, recording

# Disease: share of the 126 patients, shares of normal, crackle, wheeze and both among their cycles, mean recordings per
# patient (counted from the ICBHI 2017 annotation and diagnosis files; LRTI and Asthma are left out: three patients).
DISEASES = {
    "COPD": (0.51, (0.474, 0.310, 0.131, 0.085), 12.4),
    "Healthy": (0.21, (0.940, 0.050, 0.007, 0.003), 1.4),
    "URTI": (0.12, (0.880, 0.085, 0.030, 0.005), 1.6),
    "Bronchiectasis": (0.06, (0.490, 0.115, 0.300, 0.095), 2.3),
    "Pneumonia": (0.05, (0.840, 0.072, 0.083, 0.005), 6.2),
    "Bronchiolitis": (0.05, (0.475, 0.095, 0.400, 0.030), 2.2),
}
# Device: sample rates and bits with their shares; how many channels record at once; share among COPD patients and others.
FORMATS = {
    "AKGC417L": (((44100, 24, 0.85), (44100, 16, 0.15)), "mc", 0.50, 0.00),
    "LittC2SE": (((44100, 24, 1.0),), "mc", 0.15, 0.10),
    "Litt3200": (((4000, 16, 1.0),), "sc", 0.15, 0.10),
    "Meditron": (((44100, 24, 0.52), (44100, 16, 0.28), (4000, 16, 0.15), (10000, 16, 0.05)), "sc", 0.20, 0.80),
}


def write_folder(
    folder: str | Path,
    recordings: int,
    seed: int,
    *,
    patients: int | None = None,
    duration_s: tuple[float, float] = (10.0, 90.0),
    processes: int = 1,
) -> None:
    """Number of recordings, seed -> a folder like an unpacked ICBHI_final_database, complete or not there at all.

    Recordings last between the two durations, mostly about a third of the way up on a log scale: 21 s on average for
    (10, 90), as in ICBHI 2017. Without `patients` there are as many recordings per patient as there (7.3), but at least
    eight patients. About 60 % of the recordings are for training, 40 % for testing, no patient is in both, and each
    side has every class if it has the cycles for it. The same arguments give the same bytes, whatever `processes` is.

    Raises ValueError for a folder that is not empty and for impossible numbers, OSError if the folder cannot be written.
    """
    folder = Path(folder)
    patients = min(recordings, max(8, round(recordings / 7.3))) if patients is None else patients
    _check(folder, recordings, seed, patients, duration_s, processes)
    partial_folder = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial_folder.mkdir(parents=True)
        people, plans = plan(recordings, patients, duration_s, seed)
        write = partial(_write_recording, partial_folder)
        if processes == 1:
            for one in plans:
                write(one)
        else:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
                list(pool.map(write, plans, chunksize=4))
        _write_tables(partial_folder, people, plans)
        if folder.exists():
            folder.rmdir()  # empty, see _check; not every system renames onto it
        partial_folder.rename(folder)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _check(
    folder: Path, recordings: int, seed: int, patients: int, duration_s: tuple[float, float], processes: int
) -> None:
    if recordings < 1:
        raise ValueError(f"recordings is {recordings}, expected 1 or more")
    if not 1 <= patients <= recordings:
        raise ValueError(f"patients is {patients}, expected 1 to {recordings} (at least one recording per patient)")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected 0 or more")
    if processes < 1:
        raise ValueError(f"processes is {processes}, expected 1 or more")
    low_s, high_s = duration_s
    if not 2 <= low_s <= high_s <= 600:
        raise ValueError(f"duration_s is {duration_s}, expected (shortest, longest) with 2 <= shortest <= longest <= 600")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, expected a new or empty folder; choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty, expected a new or empty folder; choose another name or empty it")


# Who is recorded, how, and what the cycles hold


@dataclass(frozen=True)
class Patient:
    """One made-up person and the stethoscope that recorded them."""

    number: int
    age: float
    sex: str
    diagnosis: str
    device: str
    rate_hz: int
    bits: int
    breath_s: float
    chest: Chest
    mix: Array  # (4,) shares of normal, crackle, wheeze and both

    @property
    def demographics(self) -> str:
        """Number, age, sex, BMI of adults, weight in kg and height in cm of children, as in the ICBHI file."""
        rng = np.random.default_rng(self.number)
        if self.age >= 18:
            return f"{self.number}\t{self.age:g}\t{self.sex}\t{rng.normal(27, 4):.2f}\tNA\tNA"
        height_cm = 76 + 6 * self.age + rng.normal(0, 4)
        return f"{self.number}\t{self.age:g}\t{self.sex}\tNA\t{16.5 * (height_cm / 100) ** 2:.1f}\t{height_cm:.0f}"


@dataclass(frozen=True)
class Plan:
    """One recording before it sounds."""

    patient: Patient
    session: str
    location: str
    split: str
    duration_s: float
    breaths: Array  # (n, 3) start, turn to expiration, end in s
    labels: NDArray[np.int_]  # (n,) 0 normal, 1 crackle, 2 wheeze, 3 both
    seed: np.random.SeedSequence

    @property
    def name(self) -> str:
        """The file name without ending."""
        device = self.patient.device
        return f"{self.patient.number}_{self.session}_{self.location}_{FORMATS[device][1]}_{device}"


def plan(
    recordings: int, patients: int, duration_s: tuple[float, float], seed: int
) -> tuple[list[Patient], list[Plan]]:
    """Numbers and seed -> patients and what each recording will hold, with a seed of its own."""
    plan_seed, *sound_seeds = np.random.SeedSequence(seed).spawn(1 + recordings)
    rng = np.random.default_rng(plan_seed)
    diseases = np.array(list(DISEASES))[np.searchsorted(_cumulative(DISEASES), (np.arange(patients) + 0.5) / patients)]
    people = [_patient(101 + index, str(disease), rng) for index, disease in enumerate(rng.permutation(diseases))]
    appetite = rng.gamma(1.5, [DISEASES[person.diagnosis][2] for person in people])
    counts = 1 + rng.multinomial(recordings - patients, appetite / appetite.sum())
    plans: list[Plan] = []
    for person, count, split in zip(people, counts, _splits(counts), strict=True):
        seeds = sound_seeds[len(plans) : len(plans) + count]
        plans += _recordings_of(person, split, duration_s, seeds, rng)
    for split in ("train", "test"):
        _have_every_class([one.labels for one in plans if one.split == split], rng)
    return people, plans


def _cumulative(diseases: dict[str, tuple[float, tuple[float, ...], float]]) -> Array:
    shares = np.cumsum([share for share, _, _ in diseases.values()])
    return np.asarray(shares / shares[-1], dtype=np.float64)


def _patient(number: int, disease: str, rng: np.random.Generator) -> Patient:
    """Number and disease -> a person.

    Children breathe 44 times a minute at birth and 26 times at two years, their hearts beat 127 and 113 times
    (Fleming et al., Lancet 377:1011, 2011).
    """
    adult = disease in ("COPD", "Bronchiectasis", "Pneumonia") or (disease == "Healthy" and rng.random() < 0.3)
    age = float(np.round(np.clip(rng.normal(67, 10), 20, 93) if adult else rng.choice([0.25, 0.5, 0.75, *range(1, 17)]), 2))
    breaths_per_min = rng.normal(21, 3.5) if adult else 18 + 26 * np.exp(-age / 1.7) + rng.normal(0, 2)
    beats_per_min = rng.normal(78, 10) if adult else 80 + 50 * np.exp(-age / 5) + rng.normal(0, 8)
    shares = np.array([row[2 if disease == "COPD" else 3] for row in FORMATS.values()])
    device = str(rng.choice(list(FORMATS), p=shares))
    formats = FORMATS[device][0]
    rate_hz, bits, _ = formats[rng.choice(len(formats), p=[share for *_, share in formats])]
    chest = Chest(
        cutoff=float(rng.lognormal(0, 0.15) * (1.0 if adult else 1.3)),
        heart_rate_hz=float(max(beats_per_min, 45) / 60),
        heart_level=float(rng.lognormal(0, 0.5)),
        fine_share=float(rng.beta(0.5, 0.5)),
        two_cycle=float(rng.lognormal(0, 0.1)),
        wheeze_hz=float(np.clip(rng.lognormal(np.log(320), 0.45), 110, 900)),
        polyphony=float(rng.beta(1, 3)),
    )
    return Patient(
        number=number,
        age=round(age) if age >= 1 else age,
        sex=str(rng.choice(["F", "M"])),
        diagnosis=disease,
        device=device,
        rate_hz=rate_hz,
        bits=bits,
        breath_s=float(60 / np.clip(breaths_per_min, 12, 60)),
        chest=chest,
        mix=_around(np.array(DISEASES[disease][1]), 4.0, rng),
    )


def _around(shares: Array, likeness: float, rng: np.random.Generator) -> Array:
    """Shares (4,) -> shares of one member (4,), the nearer the greater `likeness`; the mean over members is kept."""
    return rng.dirichlet(likeness * shares + 1e-3)


def _splits(counts: NDArray[np.int_]) -> list[str]:
    """Recordings per patient -> train or test per patient: the next largest goes where most is missing of 60 and 40 %."""
    splits = [""] * len(counts)
    have = {"train": 0, "test": 0}
    for index in np.argsort(-counts, kind="stable"):
        splits[index] = "train" if have["train"] / 0.6 <= have["test"] / 0.4 else "test"
        have[splits[index]] += int(counts[index])
    return splits


def _recordings_of(
    person: Patient,
    split: str,
    duration_s: tuple[float, float],
    seeds: list[np.random.SeedSequence],
    rng: np.random.Generator,
) -> list[Plan]:
    """Person and one seed per recording -> plans: sessions of up to seven locations, at once (mc) or one by one (sc)."""
    plans: list[Plan] = []
    at_once = FORMATS[person.device][1] == "mc"
    session = 0
    while len(plans) < len(seeds):
        session += 1
        locations = rng.permutation(list(CUTOFF_HZ))[: min(rng.integers(1, 8), len(seeds) - len(plans))]
        session_mix = _around(person.mix, 4.0, rng)
        length_s, breaths = _breaths(person, duration_s, rng)
        for location in locations:
            if not at_once:
                length_s, breaths = _breaths(person, duration_s, rng)
            labels = rng.choice(4, len(breaths), p=_around(session_mix, 3.0, rng))
            plans.append(
                Plan(person, f"{session}b1", str(location), split, length_s, breaths, labels, seeds[len(plans)])
            )
    return plans


def _breaths(person: Patient, duration_s: tuple[float, float], rng: np.random.Generator) -> tuple[float, Array]:
    """Person -> length of a recording in s, breaths (n, 3): one after the other without a gap, rounded as annotated."""
    low_s, high_s = duration_s
    length_s = round(float(low_s * (high_s / low_s) ** rng.beta(2.2, 4.8)), 3)
    first_s = 0.0 if rng.random() < 0.05 else min(rng.exponential(0.6), 0.25 * length_s)
    last_s = length_s - min(rng.exponential(0.1), 0.1 * length_s)
    count = max(1, round((last_s - first_s) / person.breath_s))
    borders = first_s + (last_s - first_s) * np.cumsum([0, *_periods(count, rng)])
    significant = 5 if person.device == "Litt3200" else None  # that part of the database has five digits, the rest ms
    borders = np.array([float(f"{time:.{significant}g}") if significant else round(time, 3) for time in borders])
    borders[-1] = min(borders[-1], length_s)
    turns = borders[:-1] + np.diff(borders) * np.clip(rng.normal(0.42, 0.04, count), 0.3, 0.55)
    return length_s, np.stack([borders[:-1], turns, borders[1:]], axis=1)


def _periods(count: int, rng: np.random.Generator) -> Array:
    """Number of breaths -> their shares (count,) of the time."""
    periods = rng.lognormal(0, 0.22, count)
    return np.asarray(periods / periods.sum(), dtype=np.float64)


def _have_every_class(labels: list[NDArray[np.int_]], rng: np.random.Generator) -> None:
    """Labels of one side -> changed in place so that no class is missing: a cycle of the commonest class becomes it."""
    while labels:
        counts = np.bincount(np.concatenate(labels), minlength=4)
        if counts.min() > 0 or counts.max() == 1:
            return
        common = [(one, cycle) for one in labels for cycle in np.flatnonzero(one == counts.argmax())]
        one, cycle = common[rng.integers(len(common))]
        one[cycle] = counts.argmin()


# Files


def _write_recording(folder: Path, one: Plan) -> None:
    wave = recording(
        one.breaths,
        one.labels % 2 == 1,
        one.labels >= 2,
        chest=one.patient.chest,
        location=one.location,
        device=one.patient.device,
        duration_s=one.duration_s,
        rate_hz=one.patient.rate_hz,
        rng=np.random.default_rng(one.seed),
    )
    encoded = io.BytesIO()  # a full disk is then an OSError, not an error of the sound library
    soundfile.write(encoded, wave, one.patient.rate_hz, subtype=f"PCM_{one.patient.bits}", format="WAV")
    (folder / f"{one.name}.wav").write_bytes(encoded.getvalue())
    lines = [
        f"{start:g}\t{end:g}\t{label % 2}\t{label // 2}\n"
        for (start, _, end), label in zip(one.breaths, one.labels, strict=True)
    ]
    (folder / f"{one.name}.txt").write_text("".join(lines), encoding="ascii", newline="\n")


def _write_tables(folder: Path, people: list[Patient], plans: list[Plan]) -> None:
    tables = {
        "ICBHI_challenge_train_test.txt": [f"{one.name}\t{one.split}" for one in plans],
        "ICBHI_Challenge_diagnosis.txt": [f"{person.number}\t{person.diagnosis}" for person in people],
        "ICBHI_Challenge_demographic_information.txt": [person.demographics for person in people],
    }
    for file, lines in tables.items():
        (folder / file).write_text("".join(f"{line}\n" for line in lines), encoding="ascii", newline="\r\n")
