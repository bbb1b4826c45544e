"""One page of speeds: every path beside a public peer in the same run, beside the first edition, and beside its limit.

    PYTHONPATH=. python benchmarks/page.py        # ten minutes on two idle cores; writes bench.json too
    PYTHONPATH=. python benchmarks/page.py --only folder "cold start" --rounds 1 --first ""

A path is measured in a process of its own, where it and its peer take turns; the figures are medians, "times" is the
median over rounds of (peer / this one in the same round). Then the same is done with the package and the benchmarks of
the commit --first, unpacked in a temporary folder, on the packages of this environment. The ratio to it is that of the
two ratios to the peer, where there is one, so that it does not hang on what else the machine does.

Limits: of networks the time that their products (forward, backward) take at the rate of the largest product of matrices
reached here; of sound its decoding by libsndfile alone on all processors; of a cold start the import of what any answer
needs. Peers are of the extra `bench`: transformers' ViTModel in eager float32, M2D written plainly in torch, librosa
(load and log-mel of 4 s windows alone, without breaths or network), scikit-learn. What cannot be measured is said.
"""

import argparse
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
FIRST_EDITION = "2cbeea4"
PROCESSOR_TIME = "RALES_BENCH_PROCESSOR_TIME"  # to the processes that measure
RATE_HZ, WINDOW_S = 16000, 4
DEPTH = 8  # layers of the search, of whose 12 all subsets take six minutes
RALES = [sys.executable, "-m", "rales"]
Turn = Callable[[], object]


class Asked(argparse.Namespace):
    path: str
    place: Path
    rounds: int
    processor_time: bool


# One path: seconds of its rounds, of its peer's, and the limit. Names of rales are imported where they are used, and
# only those that the first edition has as well.


def time_folder(asked: Asked) -> dict[str, Any]:
    sounds = sorted((asked.place / "many").iterdir())
    words = ["predict", asked.place / "many", "--cycles", "segment", "--out", asked.place / f"{os.getpid()}.csv"]
    peer = [sys.executable, "-P", __file__, "--plain", asked.place / "many"]
    turns = {"ours": lambda: run([*RALES, *words]), **({"peer": lambda: run(peer)} if librosa_is_here() else {})}
    decoded_s = min(take_turns({"": lambda: decode(sounds)}, 1)[""])
    return {
        **take_turns(turns, asked.rounds),
        "limit": decoded_s / (1 if os.environ.get(PROCESSOR_TIME) else os.cpu_count() or 1),
    }


def time_cold_start(asked: Asked) -> dict[str, Any]:
    words = ["predict", asked.place / "one.wav", "--out", asked.place / f"{os.getpid()}.csv"]
    imports = {"peer": "torch", "limit": "numpy, soundfile, soxr, onnxruntime"}
    turns: dict[str, Turn] = {"ours": lambda: run([*RALES, *words])}
    for name, modules in imports.items():
        turns[name] = lambda modules=modules: run([sys.executable, "-c", f"import {modules}"])  # type: ignore[misc]
    found = take_turns(turns, asked.rounds)
    return {**found, "limit": statistics.median(found["limit"])}


def time_single_answer(asked: Asked) -> dict[str, Any]:
    import rales

    sound, model = asked.place / "one.wav", rales.load()
    turns: dict[str, Turn] = {"ours": lambda: model.predict(sound)}
    if librosa_is_here():
        turns["peer"] = lambda: hear_plainly(sound)
    decoded_s = min(take_turns({"": lambda: decode([sound])}, 5)[""])
    return {**take_turns(turns, 5 * asked.rounds), "limit": decoded_s}


def time_vit_batch(asked: Asked) -> dict[str, Any]:
    from benchmarks import vit_speed

    found = vit_speed.inference_turns([vit_speed.FLOAT32, vit_speed.EAGER], vit_speed.BATCH)
    turns = {"ours": found[vit_speed.FLOAT32], "peer": found[vit_speed.EAGER]}
    return {**take_turns(turns, asked.rounds), "limit": limit_of_products(turns["peer"])}


def time_fine_tuning(asked: Asked) -> dict[str, Any]:
    from benchmarks import vit_speed

    turns = {"ours": vit_speed.training_step(vit_speed.FLOAT32), "peer": vit_speed.training_step(vit_speed.EAGER)}
    return {**take_turns(turns, asked.rounds), "limit": limit_of_products(turns["ours"])}


def time_pre_training(asked: Asked) -> dict[str, Any]:
    import torch
    from benchmarks import pretrain_speed

    from rales.models import M2D, ViT

    model = M2D(ViT(), mask_ratio=pretrain_speed.RATIO)
    batch = (torch.randn(pretrain_speed.BATCH, 1, 80, 608), torch.rand(pretrain_speed.BATCH, pretrain_speed.PATCHES))
    peer = pretrain_speed.plain_step(model, *batch)
    turns = {"ours": pretrain_speed.rales_step(model, *batch, bf16=False), "peer": peer}
    return {**take_turns(turns, asked.rounds), "limit": limit_of_products(turns["ours"])}


def time_front_end(asked: Asked) -> dict[str, Any]:
    import torch
    from benchmarks import frontend

    from rales.audio import M2DLogMel

    waves = 0.1 * torch.randn(16, frontend.SAMPLES, generator=torch.Generator().manual_seed(0))
    ours, frames = M2DLogMel(), waves.unfold(1, 400, 160).contiguous()
    turns: dict[str, Turn] = {"ours": lambda: ours(waves), "limit": lambda: torch.fft.rfft(frames)}
    if librosa_is_here():
        peer = frontend.librosa()
        turns["peer"] = lambda: peer(waves)
    with torch.inference_mode():
        found = take_turns(turns, asked.rounds)
    return {**found, "limit": statistics.median(found["limit"])}


def time_layer_search(asked: Asked) -> dict[str, Any]:
    program = f"from benchmarks import layer_search; layer_search.DEPTH = {DEPTH}; layer_search.main()"
    said = run_python("-c", program, "--subsets", "3", "--threads", str(os.cpu_count()))
    ours, peer = re.search(r"threads: (\d+) s", said), re.search(r"scikit-learn: (\d+) s", said)
    return {"ours": [float(ours[1])], "peer": [float(peer[1])]} if ours and peer else {"error": said[-300:]}


def time_page(asked: Asked) -> dict[str, Any]:
    import benchmarks

    said = run_python(str(Path(next(iter(benchmarks.__path__)), "web.py")))
    page = re.search(r"page: ([\d.]+) s", said)
    return {"ours": [float(page[1])]} if page else {"error": said[-300:]}


PATHS: dict[str, tuple[Callable[[Asked], dict[str, Any]], str]] = {
    "folder": (time_folder, "{hours:.2f} h of recordings to a table, start included"),
    "cold start": (time_cold_start, "20 s of sound to a table in a new shell; peer: `import torch` alone"),
    "single answer": (time_single_answer, "20 s from the disk to a table, model loaded"),
    "ViT-base batch": (time_vit_batch, "8 clips of 8 s, float32"),
    "fine-tuning step": (time_fine_tuning, "ViT-base, 8 clips of 8 s, float32"),
    "pre-training step": (time_pre_training, "M2D of ViT-base, 8 clips of 6.08 s, float32"),
    "front-end": (time_front_end, "log-mel of 16 clips of 8 s; limit: its FFTs in float32"),
    "layer search": (time_layer_search, f"{2**DEPTH - 1} subsets of {DEPTH} layers, five folds"),
    "page": (time_page, "90 s chosen to sound, picture and answers"),
}


# What they share


def read_processor_time() -> float:
    """-> seconds that this process and those that it waited for have computed, all threads together."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def take_turns(turns: Mapping[str, Turn], rounds: int) -> dict[str, list[float]]:
    """-> seconds of every round, after one that warms up: other programs disturb all alike."""
    clock = read_processor_time if os.environ.get(PROCESSOR_TIME) else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(1 + rounds):
        for name, turn in turns.items():
            start = clock()
            turn()
            seconds[name].append(clock() - start)
    return {name: values[1:] for name, values in seconds.items()}


def run(command: list[Any]) -> None:
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_python(*words: str) -> str:
    """Words for an interpreter that finds the edition in use -> what it printed."""
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    return ended.stdout + ended.stderr


def librosa_is_here() -> bool:
    try:
        import librosa  # type: ignore[import-not-found] # noqa: F401
    except ImportError:
        return False
    return True


def hear_plainly(path: Path) -> None:
    """A recording -> nothing: it is loaded and its log-mel computed as most scripts do, with librosa."""
    import librosa
    import numpy as np

    wave, _ = librosa.load(path, sr=RATE_HZ)
    for start in range(0, len(wave), WINDOW_S * RATE_HZ):
        window = wave[start : start + WINDOW_S * RATE_HZ]
        np.log(librosa.feature.melspectrogram(y=window, sr=RATE_HZ, n_fft=400, hop_length=160, n_mels=80) + 1e-7)


def decode(paths: list[Path]) -> None:
    import soundfile

    for path in paths:
        soundfile.read(path, dtype="float32")


def limit_of_products(turn: Turn) -> float | None:
    """-> seconds of a turn's products at the largest rate measured here; None where this edition cannot tell."""
    try:
        from rales.jobs.benchmark import measure_peak_gflops
    except ImportError:
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        turn()
    peak = measure_peak_gflops("float32")
    return counter.get_total_flops() / 1e9 / peak if peak else None


# The page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PATHS, default=list(PATHS), help="paths that are measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recordings", type=int, default=250, help="of the folder")
    parser.add_argument("--first", default=FIRST_EDITION, help="commit of the first edition; empty: without it")
    parser.add_argument("--processor-time", action="store_true", help="count it, not the clock: for a busy machine")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--path", choices=PATHS, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(namespace=Asked())
    if asked.plain:
        for sound in sorted(asked.plain.iterdir()):
            hear_plainly(sound)
        return
    if asked.path:
        print(json.dumps(PATHS[asked.path][0](asked)))
        return
    if asked.processor_time:
        os.environ[PROCESSOR_TIME] = "yes"
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        hours = write_sounds(place, asked.recordings)
        with unpacked(asked.first) as first:
            rows = [measure_path(name, place, asked.rounds, first, hours) for name in asked.only]
    found = {"machine": describe_machine(), "first_edition": asked.first, "rows": rows}
    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    print("\n".join(write_page(found)))


def write_sounds(place: Path, recordings: int) -> float:
    """Folder -> `many` simulated recordings, of which 24 are different, and `one.wav` of 20 s; -> hours of `many`."""
    import soundfile

    run([*RALES, "synth", place / "simulated", "--recordings", "24"])
    (place / "many").mkdir()
    paths, seconds = sorted((place / "simulated").rglob("*.wav")), 0.0
    for number in range(recordings):
        path = paths[number % len(paths)]
        (place / "many" / f"{number:06d}.wav").symlink_to(path)
        seconds += soundfile.info(path).duration
    longest = max(paths, key=lambda path: soundfile.info(path).duration)
    wave, rate_hz = soundfile.read(longest)
    soundfile.write(place / "one.wav", wave[: 20 * rate_hz], rate_hz, subtype="PCM_24")
    return seconds / 3600


@contextmanager
def unpacked(commit: str) -> Iterator[Path | None]:
    """Commit -> a temporary folder with its package and benchmarks; None where this is no clone that holds it."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["git", "-C", str(REPOSITORY), "archive", commit or FIRST_EDITION, "src", "benchmarks"]
        archive = subprocess.run(command, capture_output=True)
        if commit and archive.returncode == 0:
            subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
            yield Path(folder)
            return
        if commit:
            print(f"without the first edition: {archive.stderr.decode().strip()}", file=sys.stderr)
        yield None


def measure_path(name: str, place: Path, rounds: int, first: Path | None, hours: float) -> dict[str, Any]:
    """-> one line of the page."""
    print(f"{time.strftime('%H:%M:%S')} measuring {name}", file=sys.stderr)
    now = in_tree(REPOSITORY, name, place, rounds)
    before = in_tree(first, name, place, rounds) if first else {}
    row: dict[str, Any] = {"path": name, "what": PATHS[name][1].format(hours=hours)}
    row |= {"error": now.get("error"), "first_error": before.get("error")}
    row |= {"ours_s": middle(now.get("ours")), "peer_s": middle(now.get("peer")), "first_s": middle(before.get("ours"))}
    times, times_before = ratio(now), ratio(before)
    row["times_the_peer"] = times
    if times and times_before:
        row["times_the_first"] = times / times_before
    elif row["ours_s"] and row["first_s"]:
        row["times_the_first"] = row["first_s"] / row["ours_s"]
    row["limit_s"] = now.get("limit")
    if row["limit_s"] and row["ours_s"]:
        row["share_of_limit"] = row["limit_s"] / row["ours_s"]
    return row


def in_tree(tree: Path, name: str, place: Path, rounds: int) -> dict[str, Any]:
    """Folder of an edition -> what its process measured, or the last line of why it could not."""
    keeps = place / f"cache of {tree.name}"
    paths = os.pathsep.join(filter(None, [str(tree / "src"), str(tree), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "RALES_CACHE": str(keeps), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-P", __file__, "--path", name, "--place", str(place), "--rounds", str(rounds)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        return {"error": (ended.stderr.strip().splitlines() or ["no word"])[-1]}
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def middle(seconds: list[float] | None) -> float | None:
    return statistics.median(seconds) if seconds else None


def ratio(found: Mapping[str, Any]) -> float | None:
    """-> median over rounds of peer / ours."""
    if not (found.get("ours") and found.get("peer")):
        return None
    return statistics.median(float(peer) / float(ours) for ours, peer in zip(found["ours"], found["peer"], strict=True))


def describe_machine() -> str:
    fields = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", fields)
    load = f"load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return f"{name[1] if name else 'unknown processor'}, {os.cpu_count()} processors, {load}" + (
        "; seconds of processor time, all threads together" if os.environ.get(PROCESSOR_TIME) else ""
    )


def write_page(found: Mapping[str, Any]) -> list[str]:
    """-> the lines of the table."""

    def cell(row: Mapping[str, Any], name: str) -> str:
        value = row.get(name)
        if value is None or not math.isfinite(value):
            return "–"
        return (
            f"{value:.3g} s" if name.endswith("_s") else f"{value:.2g}" if name.startswith("share") else f"{value:.2f}"
        )

    names = ("ours_s", "peer_s", "times_the_peer", "first_s", "times_the_first", "limit_s", "share_of_limit")
    lines = [found["machine"], ""]
    lines += ["| path | this edition | peer | times | first edition | times | limit | share |", "|---|" + 7 * "---|"]
    lines += [f"| {r['path']}: {r['what']} | " + " | ".join(cell(r, n) for n in names) + " |" for r in found["rows"]]
    said = {"error": "", "first_error": " of the first edition"}
    lines += [f"{r['path']}{which}: {r[key]}" for r in found["rows"] for key, which in said.items() if r[key]]
    return lines


if __name__ == "__main__":
    main()
