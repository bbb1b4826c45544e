"""Where the processor's time of `rales predict FOLDER` goes: milliseconds of one core a recording, step by step.

    rales synth synthetic --recordings 100
    python benchmarks/folder_steps.py synthetic [--recordings 500]

The steps of the package's model, with the engine that the command takes for as many, are called one after the other
over the folder's recordings, again and again; processor time is counted, so that other work matters little.
"The rest" (threads, rows of the answer) is what the command's own way has more, its start left out.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rales.audio import io
from rales.export.load import load_with_engine
from rales.inference import audio_reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recordings", type=int, default=500)
    options = parser.parse_args()
    there = sorted(options.folder.rglob("*.wav"))
    paths = [there[number % len(there)] for number in range(options.recordings)]
    model = load_with_engine(recordings=len(paths), tell=print)
    model.predict(paths[0], cycles="segment")  # what is loaded once
    spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def counted(step: str) -> Iterator[None]:
        start = time.process_time()
        yield
        spent[step] += time.process_time() - start

    audio, cycles_heard, sound_s = model.preparation.audio, 0, 0.0
    for path in paths:
        with counted("header"):
            facts = io.read_audio_info(path)
        with counted("decode, bring to 4 kHz"):
            sound = audio_reader.read_whole_sound(path)
        with counted("find the breaths"):
            cycles = audio_reader.find_cycles(path, facts.duration_s, "segment", sound)
        with counted("quality gate"):
            cycles = audio_reader.judge_cycles(path, facts, cycles, "segment", True, sound)
        spans = list(zip(np.array(cycles.start_s)[cycles.judged], np.array(cycles.end_s)[cycles.judged], strict=True))
        with counted("cut, resample, fade and fill"):
            segments = io.cut_segments(path, sound[:2], spans)
            waves = np.stack([audio_reader.prepare_cycle(*segment, audio) for segment in segments]) if spans else None
        if waves is not None:
            with counted("log-mel and network"):
                model.engine(waves)
        cycles_heard, sound_s = cycles_heard + len(spans), sound_s + facts.duration_s
    steps_s = sum(spent.values())
    with counted("the rest"):
        list(model.answers([str(path) for path in paths], cycles="segment"))
    spent["the rest"] -= steps_s
    print(f"{len(paths)} recordings of {sound_s / len(paths):.1f} s, {cycles_heard / len(paths):.1f} cycles each")
    print("| step | ms a recording |\n|---|---|")
    for step, seconds in spent.items():
        print(f"| {step} | {1000 * seconds / len(paths):.2f} |")
    print(f"{sound_s / sum(spent.values()):.0f} times real time a core")


if __name__ == "__main__":
    main()
