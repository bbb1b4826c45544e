"""Decode uploaded audio files, each in a process of its own with limits.

`python -m rales.web.sandbox` takes one JSON job a line on stdin and answers with one JSON line each on stdout:
`{"id", "ok": facts}`, `{"id", "error": sentence, "large": whether a limit was passed}` or `{"id", "died": signal}`.
It imports what decoding needs once and forks a child for every job, so a file that crashes, fills or stalls its decoder
ends that child alone.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rales.audio import io
from rales.errors import FileProblem
from rales.web import platform_checks
from rales.web.settings import MIB

BLOCK_S = 10.0
PAGE_RATE_HZ = 16000  # what browsers play and the models hear


class TooLarge(Exception):
    """A recording that is longer or larger than what is taken."""


def main() -> None:
    """Serve jobs until stdin ends."""
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not mix with the answers
    children: dict[int, str] = {}

    def reap(*_: Any) -> None:
        while children:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            job = children.pop(process)
            if os.WIFSIGNALED(status):
                write_answer(out, {"id": job, "died": os.WTERMSIG(status)})

    signal.signal(signal.SIGCHLD, reap)
    write_answer(out, {"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # a child must be known before it is reaped
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            run_child(job, out)
        children[process] = job["id"]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    for process in children:  # the service has ended, so nobody waits for them, and their folders are swept
        os.kill(process, signal.SIGKILL)


def run_child(job: dict[str, Any], out: int) -> None:
    """One job in a forked process, which never returns."""
    too_much = f"needs more than {job['decode_bytes'] // MIB} MiB of memory to decode"

    def give_up() -> None:
        write_answer(out, {"id": job["id"], "error": too_much, "large": True})
        os._exit(0)

    limit_process(job["decode_s"], job["decode_bytes"])
    if not platform_checks.LIMITS_MEMORY:
        watch_memory(job["decode_bytes"], give_up)
    try:
        out_folder = Path(job["out"]) if job["out"] else None
        facts = decode_file(Path(job["path"]), out_folder, job["duration_s"], job["decode_bytes"])
        write_answer(out, {"id": job["id"], "ok": facts})
    except MemoryError:
        give_up()
    except TooLarge as error:
        write_answer(out, {"id": job["id"], "error": str(error), "large": True})
    except Exception as error:  # whatever a decoder raises at a stranger's file is that file's fault
        reason = error.reason if isinstance(error, FileProblem) else str(error)
        write_answer(out, {"id": job["id"], "error": reason[:500], "large": False})
    os._exit(0)


def limit_process(decode_s: int, decode_bytes: int) -> None:
    """Bound this process from here on: processor time, time by the clock, memory, size and number of files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (decode_s, decode_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (decode_bytes, decode_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    if platform_checks.LIMITS_MEMORY:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + decode_bytes, held + decode_bytes))
    signal.alarm(3 * decode_s)


def watch_memory(most: int, give_up: Callable[[], None]) -> None:
    """Call `give_up` once this process has grown by more than `most` bytes, where the system sets no limit. It looks
    every 20 ms, also while a decoder's own code runs, which lets other threads work."""

    def largest() -> int:
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    began = largest()

    def watch() -> None:
        while largest() - began <= most:
            time.sleep(0.02)
        give_up()

    threading.Thread(target=watch, daemon=True).start()


def decode_file(path: Path, out: Path | None, duration_s: float, decode_bytes: int) -> dict[str, Any]:
    """Audio file -> its facts, and `out`/audio.wav (its channels, float32, own rate) and `out`/page.wav (mono, 16 kHz);
    without `out` the facts alone, as the header has them.

    Errors: ValueError for what cannot be read, TooLarge.
    """
    info = io.read_audio_info(path)
    if info.duration_s > duration_s:
        raise TooLarge(
            f"lasts {format_clock(info.duration_s)}, at most {format_clock(duration_s)} are taken; "
            "cut it into shorter recordings"
        )
    needed = 4 * info.frames * (info.channels + 1)
    if needed > decode_bytes:
        raise TooLarge(
            f"takes {needed // MIB} MiB when decoded ({info.channels} channels at {info.rate_hz} Hz), at most "
            f"{decode_bytes // MIB} MiB are taken; save one channel at a lower rate"
        )
    facts = {"rate_hz": info.rate_hz, "channels": info.channels, "bits": info.bits, "notes": list(info.notes)}
    if out is None:
        return {"duration_s": info.duration_s, **facts}
    heard, rate_hz = io.read_waveform(path)
    if info.channels == 1:
        soundfile.write(out / "audio.wav", heard, rate_hz, subtype="FLOAT")
    else:  # the channels as they are: whether they cancel or are dead is to be seen
        with soundfile.SoundFile(out / "audio.wav", "w", rate_hz, info.channels, "FLOAT") as file:
            for block, _ in io.read_blocks(path, BLOCK_S):
                file.write(block)
    played = io.resample_waveform(heard, rate_hz, PAGE_RATE_HZ)
    soundfile.write(out / "page.wav", np.clip(played, -1, 1), PAGE_RATE_HZ, subtype="PCM_16")
    return {"duration_s": len(heard) / rate_hz, **facts}


def format_clock(duration_s: float) -> str:
    """Seconds -> 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02} minutes"


def write_answer(out: int, message: dict[str, Any]) -> None:
    """One write, so that lines of several processes never mix."""
    os.write(out, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main()
