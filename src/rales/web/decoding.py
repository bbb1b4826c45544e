"""Uploads -> sound that is safe to read, by the processes of `sandbox.py`."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from rales.web.settings import Limits


class Undecodable(Exception):
    """A sentence about a file that is not taken, and whether that is because it is too large."""

    def __init__(self, sentence: str, *, large: bool) -> None:
        super().__init__(sentence)
        self.large = large


class Decoder:
    """Runs the sandbox and hands it files; a sandbox that has died is started again for the next file."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process: asyncio.subprocess.Process | None = None
        self.listener: asyncio.Task[None] | None = None
        self.waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.numbers = itertools.count()
        self.places = asyncio.Semaphore(limits.decoders)
        self.starting = asyncio.Lock()

    async def decode(self, path: Path, out: Path) -> dict[str, Any]:
        """Audio file -> facts; then `out` holds audio.wav and page.wav (see sandbox.py). Errors: Undecodable."""
        job = str(next(self.numbers))
        limits = self.limits
        words = {"id": job, "path": str(path), "out": str(out), "duration_s": limits.duration_s}
        words |= {"decode_s": limits.decode_s, "decode_bytes": limits.decode_bytes}
        async with self.places:
            process = await self.started()
            self.waiting[job] = asyncio.get_running_loop().create_future()
            try:
                assert process.stdin is not None
                process.stdin.write((json.dumps(words) + "\n").encode())
                await process.stdin.drain()
                found = await asyncio.wait_for(self.waiting[job], 4 * limits.decode_s)
            except (TimeoutError, ConnectionError):
                await self.stop()
                found = {"died": signal.SIGALRM}
            finally:
                self.waiting.pop(job, None)
        if "died" in found:
            raise Undecodable(fate(found["died"], limits), large=found["died"] == signal.SIGXFSZ)
        if "error" in found:
            raise Undecodable(str(found["error"]), large=bool(found["large"]))
        facts: dict[str, Any] = found["ok"]
        return facts

    async def started(self) -> asyncio.subprocess.Process:
        """-> the running sandbox."""
        async with self.starting:
            if self.process is None or self.process.returncode is not None:
                self.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "rales.web.sandbox"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,  # libraries complain there about damaged files
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                )
                assert self.process.stdout is not None
                if not await self.process.stdout.readline():  # it says once that it is ready
                    raise OSError("the decoder of recordings does not start")
                self.listener = asyncio.create_task(self.listen(self.process))
            return self.process

    async def listen(self, process: asyncio.subprocess.Process) -> None:
        """Hand the sandbox's answers to whoever waits for them."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            found = json.loads(line)
            if (future := self.waiting.get(found["id"])) is not None and not future.done():
                future.set_result(found)
        await process.wait()
        for future in self.waiting.values():
            if not future.done():
                future.set_result({"died": signal.SIGKILL})

    async def stop(self) -> None:
        """End the sandbox."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


def fate(number: int, limits: Limits) -> str:
    """Signal that ended a decoder -> what that says about the file."""
    if number in (signal.SIGXCPU, signal.SIGALRM):
        return f"takes longer than {limits.decode_s} s to decode; save it as WAV"
    if number == signal.SIGXFSZ:
        return "is too large when decoded; cut it into shorter recordings"
    return "crashed the decoder, so it is damaged or made to do that; save it again as WAV"
