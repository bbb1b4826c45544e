"""The processes that decode strangers' files: killed, silent, babbling, orphaned, without a limit on their memory."""

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

from rales.web import platform_checks, sandbox
from rales.web.decoding import Decoder, DecoderRestarted
from rales.web.settings import MIB, Limits
from tests.served import until

DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
SILENT = "import time; time.sleep(600)"
BABBLES = "print('{}', flush=True); input(); print('no answer', flush=True); import time; time.sleep(600)"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "good.wav", 0.1 * np.random.default_rng(0).standard_normal(4000), 4000)
    return tmp_path / "good.wav"


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """More than an hour of MP3, which takes seconds to decode."""
    content, noise = io.BytesIO(), 0.1 * np.random.default_rng(0).standard_normal(20 * 44100)
    soundfile.write(content, noise, 44100, format="MP3")
    (tmp_path / "long.mp3").write_bytes(200 * content.getvalue())
    return tmp_path / "long.mp3"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process of a test goes on after it, not even as a zombie."""
    before = set(psutil.Process().children(recursive=True))
    yield
    until(lambda: not set(psutil.Process().children(recursive=True)) - before or None)


def decoded(limits: Limits, job: Callable[[Decoder], Awaitable[Any]]) -> Any:
    """-> what a job makes of a decoder, which is ended afterwards."""

    async def run() -> Any:
        decoder = Decoder(limits)
        try:
            return await job(decoder)
        finally:
            await decoder.stop()

    return asyncio.run(run())


def scripted(monkeypatch: pytest.MonkeyPatch, *scripts: str) -> list[asyncio.subprocess.Process]:
    """Let the next sandboxes be other Python scripts, "" for the real one -> all that were started."""
    real, left, begun = asyncio.create_subprocess_exec, list(scripts), list[asyncio.subprocess.Process]()

    async def start(*words: str, **named: Any) -> asyncio.subprocess.Process:
        script = left.pop(0)
        begun.append(await real(*((words[0], "-c", script) if script else words), **named))
        return begun[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    return begun


@pytest.mark.parametrize(
    ("scripts", "sentence"),
    [
        ([DIES, BABBLES, ""], ""),
        ([DIES] * 3, r"does not start; send it again \(it ended with -9\)"),
        ([SILENT] * 3, r"does not start; send it again \(it was not ready after 0\.3 s\)"),
        ([BABBLES] * 3, "was under way when the decoder ended; send it again"),
    ],
)
def test_a_sandbox_that_fails_is_started_again(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: list[str], sentence: str
) -> None:
    """For the same file; the sentence, if it fails time and again, does not blame the file."""
    if SILENT in scripts:
        monkeypatch.setattr("rales.web.decoding.START_S", 0.3)

    async def job(decoder: Decoder) -> None:
        if not sentence:
            await decoder.warm()  # which fails, and that is no error yet
            assert (await decoder.decode(good, tmp_path))["duration_s"] == 1.0
            return
        with pytest.raises(DecoderRestarted, match=sentence):
            await decoder.decode(good, tmp_path)

    begun = scripted(monkeypatch, *scripts)
    decoded(Limits(), job)
    assert len(begun) == len(scripts)


def test_no_process_can_be_started(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(*words: str, **named: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    with pytest.raises(DecoderRestarted, match=r"send it again \(Resource temporarily unavailable\)"):
        decoded(Limits(), lambda decoder: decoder.decode(good, tmp_path))


def test_killed_while_it_works(good: Path, long: Path, tmp_path: Path) -> None:
    """With all that it has forked, again and again, while it starts and while it decodes."""

    async def job(decoder: Decoder) -> None:
        for number in range(2):
            (tmp_path / str(number)).mkdir()
            working = asyncio.create_task(decoder.decode(long, tmp_path / str(number)))
            while not (decoder.process and psutil.Process(decoder.process.pid).children()):
                await asyncio.sleep(0.01)
            if number == 1:
                working.cancel()
                break
            os.killpg(decoder.process.pid, signal.SIGKILL)
            other = asyncio.create_task(decoder.decode(good, tmp_path))
            assert (await other)["duration_s"] == 1.0
            working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working

    decoded(Limits(duration_s=10_000, decode_bytes=2**31), job)


def test_it_ends_with_the_service(long: Path, tmp_path: Path) -> None:
    """Also where that was killed: nobody waits for what it decodes, and the folder belongs to the next service."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rales.web.sandbox"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    words = {"id": "1", "path": str(long), "out": str(tmp_path), "duration_s": 10_000, "decode_s": 60}
    process.stdin.write(json.dumps({**words, "decode_bytes": 2**31}).encode() + b"\n")
    process.stdin.flush()
    (working,) = until(psutil.Process(process.pid).children)
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    until(lambda: not working.is_running() or working.status() == psutil.STATUS_ZOMBIE)
    process.stdout.close()


def test_where_the_system_sets_no_limit_a_decoder_watches_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS. The memory is touched bit by bit, as a decoder fills it; free memory of this process comes first."""
    monkeypatch.setattr(platform_checks, "LIMITS_MEMORY", False)
    read, write = os.pipe()

    def fill(*_: Any) -> None:
        held: list[Any] = []
        while len(held) < 2000:
            held.append(np.ones(MIB // 8))
            time.sleep(0.002)
        raise AssertionError(f"{len(held)} MiB were not too many")

    monkeypatch.setattr(sandbox, "decode_file", fill)
    process = os.fork()
    if process == 0:
        job = {"id": "1", "path": "x", "out": "y", "duration_s": 1, "decode_s": 20, "decode_bytes": 100 * MIB}
        sandbox.run_child(job, write)
    os.waitpid(process, 0)
    said = json.loads(os.read(read, 10_000))
    assert said == {"id": "1", "error": "needs more than 100 MiB of memory to decode", "large": True}
    for end in (read, write):
        os.close(end)


def test_what_a_system_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (platform_checks.find_missing_features(), bool(platform_checks.find_weaker_promises())) == (
        "",
        sys.platform != "linux",
    )
    monkeypatch.setattr(platform_checks, "LIMITS_MEMORY", False)
    assert "each decoder watches its own" in platform_checks.find_weaker_promises()
    monkeypatch.delattr(os, "fork")
    assert platform_checks.find_missing_features().endswith("which this system lacks; use Linux, macOS or WSL")
