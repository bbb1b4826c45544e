"""Write a synthetic database in the layout of ICBHI 2017: patients, sessions, annotations and sounds."""

import io
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from rales.files.atomic import (
    make_durable_folder,
    own_folder,
    remove_abandoned,
    sync_folder,
    sync_tree,
    unfinished_folders,
)
from rales.files.stores import refuse_url
from rales.parallel import run_in_processes
from rales.synthesis.simulator import CUTOFF_HZ, Chest, simulate_recording
from rales.typing import FloatArray

TABLES = (
    "ICBHI_challenge_train_test.txt",
    "ICBHI_Challenge_diagnosis.txt",
    "ICBHI_Challenge_demographic_information.txt",
)


@dataclass(frozen=True)
class Disease:
    """What a diagnosis means for the database; counted from the ICBHI 2017 annotation and diagnosis files."""

    patients: float  # share of the patients
    mix: tuple[float, float, float, float]  # shares of normal, crackle, wheeze and both among the cycles
    recordings: float  # mean number per patient


@dataclass(frozen=True)
class DeviceSetup:
    """How a device was used in ICBHI 2017."""

    mode: str  # several channels at once (mc) or one at a time (sc)
    formats: tuple[tuple[int, int, float], ...]  # sample rate, bits, share
    copd: float  # share among patients with COPD
    others: float  # share among all others


DISEASES = {  # without LRTI and asthma, three patients in all
    "COPD": Disease(0.51, (0.474, 0.310, 0.131, 0.085), 12.4),
    "Healthy": Disease(0.21, (0.940, 0.050, 0.007, 0.003), 1.4),
    "URTI": Disease(0.12, (0.880, 0.085, 0.030, 0.005), 1.6),
    "Bronchiectasis": Disease(0.06, (0.490, 0.115, 0.300, 0.095), 2.3),
    "Pneumonia": Disease(0.05, (0.840, 0.072, 0.083, 0.005), 6.2),
    "Bronchiolitis": Disease(0.05, (0.475, 0.095, 0.400, 0.030), 2.2),
}
SETUPS = {
    "AKGC417L": DeviceSetup("mc", ((44100, 24, 0.85), (44100, 16, 0.15)), copd=0.50, others=0.0),
    "LittC2SE": DeviceSetup("mc", ((44100, 24, 1.0),), copd=0.15, others=0.1),
    "Litt3200": DeviceSetup("sc", ((4000, 16, 1.0),), copd=0.15, others=0.1),
    "Meditron": DeviceSetup(
        "sc", ((44100, 24, 0.52), (44100, 16, 0.28), (4000, 16, 0.15), (10000, 16, 0.05)), copd=0.20, others=0.8
    ),
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
    side has every class if it has the cycles for it. The same arguments give the same bytes, whatever `processes` is
    (more than one pays from some hundred recordings on; a script then needs `if __name__ == "__main__"`).

    Raises ValueError for a folder that is not empty and for impossible numbers, OSError if it cannot be written.
    """
    refuse_url(folder)
    folder = Path(folder).absolute()
    patients = min(recordings, max(8, round(recordings / 7.3))) if patients is None else patients
    _check_request(folder, recordings, seed, patients, duration_s, processes)
    people, plans = plan_recordings(recordings, patients, duration_s, seed)

    fresh = not folder.exists()  # an empty folder may be a mount point, which nothing can be renamed onto
    place, prefix = (folder.parent, f".{folder.name}.") if fresh else (folder, ".synthetic.")
    try:
        make_durable_folder(folder.parent)
        moved = any(not (left / "part").exists() for left in unfinished_folders(folder.parent, f".{folder.name}."))
        remove_abandoned(folder.parent, f".{folder.name}.")
        if moved and not fresh and {file.name for file in folder.iterdir()} == _database_files(plans):
            return  # killed after all was done

        if not fresh:  # refused here, what a killed call left stays to tell that its files may go
            _left_files(folder, plans, interrupted=any(unfinished_folders(place, prefix)))
        with own_folder(place, prefix) as mine:
            interrupted = len(unfinished_folders(place, prefix)) > 1
            remove_abandoned(place, prefix)
            if len(unfinished_folders(place, prefix)) > 1:
                raise ValueError(f"{folder}: another process is writing it; wait for it or choose another name")
            if not fresh:  # not before: the files could be those that another process is moving here
                for file in _left_files(folder, plans, interrupted=interrupted):
                    file.unlink()

            made = mine / "part"
            made.mkdir()
            _write_files(made, people, plans, processes)
            sync_tree(made)
            if fresh:
                made.rename(folder)
            else:
                for file in sorted(made.iterdir()):  # the split list comes last
                    file.rename(folder / file.name)
        sync_folder(place)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from error


def _check_request(
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
        raise ValueError(f"duration_s is {duration_s}, expected (shortest, longest) between 2 and 600 seconds")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, expected a new or empty folder; choose another name")


# Who is recorded, how, and what the cycles hold


@dataclass(frozen=True)
class Patient:
    """One made-up person and the stethoscope that recorded them."""

    number: int
    age: float
    sex: str
    body: str  # BMI of adults, weight in kg and height in cm of children, separated by tabs
    diagnosis: str
    device: str
    rate_hz: int
    bits: int
    breath_s: float
    chest: Chest
    mix: FloatArray  # (4,) shares of normal, crackle, wheeze and both


@dataclass(frozen=True, eq=False)  # so that it can be counted as a task: arrays have no hash
class RecordingPlan:
    """One recording before it sounds."""

    patient: Patient
    session: str
    location: str
    split: str
    duration_s: float
    breaths: FloatArray  # (n, 3) start, turn to expiration, end in s
    labels: NDArray[np.int_]  # (n,) 0 normal, 1 crackle, 2 wheeze, 3 both
    seed: np.random.SeedSequence

    @property
    def name(self) -> str:
        """The file name without ending."""
        device = self.patient.device
        return f"{self.patient.number}_{self.session}_{self.location}_{SETUPS[device].mode}_{device}"


def plan_recordings(
    recordings: int, patients: int, duration_s: tuple[float, float], seed: int
) -> tuple[list[Patient], list[RecordingPlan]]:
    """Numbers and seed -> patients and what each recording will hold, with a seed of its own."""
    plan_seed, *sound_seeds = np.random.SeedSequence(seed).spawn(1 + recordings)
    rng = np.random.default_rng(plan_seed)
    shares = np.cumsum([disease.patients for disease in DISEASES.values()])
    of_patient = np.searchsorted(shares / shares[-1], (rng.permutation(patients) + 0.5) / patients)
    people = [_draw_patient(101 + index, list(DISEASES)[disease], rng) for index, disease in enumerate(of_patient)]
    appetite = rng.gamma(1.5, [DISEASES[person.diagnosis].recordings for person in people])
    counts = 1 + rng.multinomial(recordings - patients, appetite / appetite.sum())
    plans: list[RecordingPlan] = []
    for person, count, split in zip(people, counts, _divide_patients(counts), strict=True):
        seeds = sound_seeds[len(plans) : len(plans) + count]
        plans += _recordings_of(person, split, duration_s, seeds, rng)
    for split in ("train", "test"):
        _have_every_class([one.labels for one in plans if one.split == split], rng)
    return people, plans


def _draw_patient(number: int, diagnosis: str, rng: np.random.Generator) -> Patient:
    """Number and diagnosis -> a person.

    Children breathe 44 times a minute at birth and 26 times at two years, their hearts beat 127 and 113 times
    (Fleming et al., Lancet 377:1011, 2011).
    """
    adult = diagnosis in ("COPD", "Bronchiectasis", "Pneumonia") or (diagnosis == "Healthy" and rng.random() < 0.3)
    if adult:
        age = float(round(np.clip(rng.normal(67, 10), 20, 93)))
        body = f"{rng.normal(27, 4):.2f}\tNA\tNA"
        breaths_per_min, beats_per_min = rng.normal(21, 3.5), rng.normal(78, 10)
    else:
        age = float(rng.choice([0.25, 0.5, 0.75, *range(1, 17)]))
        height_cm = 76 + 6 * age + rng.normal(0, 4)
        body = f"NA\t{16.5 * (height_cm / 100) ** 2:.1f}\t{height_cm:.0f}"
        breaths_per_min = 18 + 26 * np.exp(-age / 1.7) + rng.normal(0, 2)
        beats_per_min = 80 + 50 * np.exp(-age / 5) + rng.normal(0, 8)

    used = [setup.copd if diagnosis == "COPD" else setup.others for setup in SETUPS.values()]
    device = list(SETUPS)[rng.choice(len(SETUPS), p=used)]
    formats = SETUPS[device].formats
    rate_hz, bits, _ = formats[rng.choice(len(formats), p=[share for *_, share in formats])]

    chest = Chest(
        cutoff=float(np.clip(rng.lognormal(0, 0.15), 0.7, 1.5) * (1.0 if adult else 1.3)),
        heart_rate_hz=float(max(beats_per_min, 45) / 60),
        heart_level=float(rng.lognormal(0, 0.5)),
        fine_share=float(rng.beta(0.5, 0.5)),
        two_cycle=float(rng.lognormal(0, 0.1)),
        wheeze_hz=float(np.clip(rng.lognormal(np.log(320), 0.45), 110, 900)),
        polyphony=float(rng.beta(1, 3)),
    )
    return Patient(
        number=number,
        age=age,
        sex=str(rng.choice(["F", "M"])),
        body=body,
        diagnosis=diagnosis,
        device=device,
        rate_hz=rate_hz,
        bits=bits,
        breath_s=float(60 / np.clip(breaths_per_min, 12, 60)),
        chest=chest,
        mix=_draw_fractions_around(np.array(DISEASES[diagnosis].mix), 4.0, rng),
    )


def _draw_fractions_around(shares: FloatArray, likeness: float, rng: np.random.Generator) -> FloatArray:
    """Shares (4,) -> shares of one member (4,), the nearer the greater `likeness`; the mean over members is kept."""
    return rng.dirichlet(likeness * shares + 1e-3)


def _divide_patients(counts: NDArray[np.int_]) -> list[str]:
    """Recordings per patient -> train or test per patient: the next largest goes where more is missing of 60 : 40."""
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
) -> list[RecordingPlan]:
    """Person and one seed per recording -> plans: sessions of up to seven locations, at once (mc) or in turn (sc)."""
    plans: list[RecordingPlan] = []
    at_once = SETUPS[person.device].mode == "mc"
    session = 0
    while len(plans) < len(seeds):
        session += 1
        locations = rng.permutation(list(CUTOFF_HZ))[: min(rng.integers(1, 8), len(seeds) - len(plans))]
        session_mix = _draw_fractions_around(person.mix, 4.0, rng)
        length_s, breaths = _draw_breaths(person, duration_s, rng)
        for location in locations:
            if not at_once:
                length_s, breaths = _draw_breaths(person, duration_s, rng)
            labels = rng.choice(4, len(breaths), p=_draw_fractions_around(session_mix, 3.0, rng))
            plans.append(
                RecordingPlan(
                    person, f"{session}b1", str(location), split, length_s, breaths, labels, seeds[len(plans)]
                )
            )
    return plans


def _draw_breaths(
    person: Patient, duration_s: tuple[float, float], rng: np.random.Generator
) -> tuple[float, FloatArray]:
    """Person -> length of a recording in s, breaths (n, 3): one after the other without a gap, rounded as annotated."""
    low_s, high_s = duration_s
    length_s = round(float(low_s * (high_s / low_s) ** rng.beta(2.2, 4.8)), 3)
    first_s = 0.0 if rng.random() < 0.05 else min(rng.exponential(0.6), 0.25 * length_s)
    last_s = length_s - min(rng.exponential(0.1), 0.1 * length_s)
    count = max(2, round((last_s - first_s) / person.breath_s))
    periods = rng.lognormal(0, 0.22, count)
    borders = first_s + (last_s - first_s) * np.append(0, np.cumsum(periods / periods.sum()))
    form = ".5g" if person.device == "Litt3200" else ".3f"  # five digits in that part of the database, else ms
    borders = np.array([float(f"{time_s:{form}}") for time_s in borders])
    borders[-1] = min(borders[-1], length_s)
    turns = borders[:-1] + np.diff(borders) * np.clip(rng.normal(0.42, 0.04, count), 0.3, 0.55)
    return length_s, np.stack([borders[:-1], turns, borders[1:]], axis=1)


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


def _left_files(folder: Path, plans: list[RecordingPlan], *, interrupted: bool) -> list[Path]:
    """Folder -> the files that an interrupted call for these plans has put there; none if it is empty. Errors: it holds
    anything else."""
    ours = _database_files(plans) if interrupted else set()
    existing = [file for file in folder.iterdir() if file not in unfinished_folders(folder, ".synthetic.")]
    if any(file.name not in ours for file in existing):
        raise ValueError(f"{folder}: is not empty, expected a new or empty folder; choose another name or empty it")
    return existing


def _database_files(plans: list[RecordingPlan]) -> set[str]:
    """-> the files of a whole folder."""
    return {*TABLES, *(f"{one.name}{suffix}" for one in plans for suffix in (".wav", ".txt"))}


def _write_files(folder: Path, people: list[Patient], plans: list[RecordingPlan], processes: int) -> None:
    write = partial(_write_recording, folder)
    if processes == 1:
        for one in plans:
            write(one)
    else:
        with closing(run_in_processes(write, plans, (), processes=processes)) as results:
            for _, error in results:
                if error is not None:
                    raise error
    _write_tables(folder, people, plans)


def _write_recording(folder: Path, one: RecordingPlan) -> None:
    wave = simulate_recording(
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


def _write_tables(folder: Path, people: list[Patient], plans: list[RecordingPlan]) -> None:
    tables = (
        [f"{one.name}\t{one.split}" for one in plans],
        [f"{person.number}\t{person.diagnosis}" for person in people],
        [f"{person.number}\t{person.age:g}\t{person.sex}\t{person.body}" for person in people],
    )
    for file, lines in zip(TABLES, tables, strict=True):
        (folder / file).write_text("".join(f"{line}\n" for line in lines), encoding="ascii", newline="\r\n")
