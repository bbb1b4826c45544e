"""How fast the waveform cache is built, in seconds of audio per second: python benchmarks/cache_build.py

Writes a synthetic ICBHI folder of recordings of real length (10-90 s, 44.1 / 10 / 4 kHz, 16 / 24 bit) unless --data
names a folder, and builds its cache of 8 s cycles in a temporary folder. Generating the recordings is not counted;
decoding, resampling, writing and the final fsync are. Then it is opened again, which checks every byte of it. Ends with
1 if a cache is built slower than --target.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from rales.audio.io import read_audio_info
from rales.data import read_cycles
from rales.data.waveform_cache import cache_waveforms
from rales.synthesis.database import write_folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="an existing ICBHI folder instead of a synthetic one")
    parser.add_argument("--recordings", type=int, default=920, help="how many to generate (default: 920, 5.5 h)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", type=float, default=500, help="times real time that are expected (default: 500)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or Path(temporary) / "data"
        if options.data is None:
            print(f"generating {options.recordings} recordings ...", file=sys.stderr)
            write_folder(data, options.recordings, seed=0, processes=os.cpu_count() or 1)
        cycles = read_cycles(data)
        audio_s = sum(read_audio_info(path).duration_s for path in cycles["path"].unique())
        began_s = time.perf_counter()
        waves = cache_waveforms(cycles, folder=Path(temporary) / "cache", threads=options.threads, progress=True)
        took_s = time.perf_counter() - began_s
        ratio = audio_s / took_s
        print(
            f"{cycles['path'].nunique()} recordings, {len(cycles)} cycles, {audio_s:.0f} s of audio -> "
            f"{waves.nbytes / 1e9:.2f} GB in {took_s:.2f} s with {options.threads} threads: {ratio:.0f} x real time"
        )
        began_s, began_processor_s = time.perf_counter(), time.process_time()
        cache_waveforms(cycles, folder=Path(temporary) / "cache")
        took_s, processor_s = time.perf_counter() - began_s, time.process_time() - began_processor_s
        print(
            f"opened again, every byte of it checked, in {took_s:.2f} s, {processor_s:.2f} s of a processor: "
            f"{waves.nbytes / 1e9 / processor_s:.2f} GB a second of a processor"
        )
    return int(ratio < options.target)


if __name__ == "__main__":
    sys.exit(main())
