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

PATIENCE = 4  # times the limit of processor time; by the clock, a job's own process ends itself after three times


class Undecodable(Exception):
    """A sentence about a file that is not taken, and whether that is because it is too large."""

    def __init__(self, sentence: str, *, large: bool) -> None:
        super().__init__(sentence)
        self.large = large


class Lost(Undecodable):
    """The sandbox ended while it worked on a file, for a reason that need not lie in that file."""

    def __init__(self) -> None:
        super().__init__("was under way when the decoder ended; send it again", large=False)


class Decoder:
    """Runs the sandbox and hands it files; a sandbox that has died is started again for the next file."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process: asyncio.subprocess.Process | None = None
        self.listener: asyncio.Task[None] | None = None
        self.waiting: dict[asyncio.subprocess.Process, dict[str, asyncio.Future[dict[str, Any]]]] = {}
        self.numbers = itertools.count()
        self.places = asyncio.Semaphore(limits.decoders)
        self.starting = asyncio.Lock()

    async def decode(self, path: Path, out: Path) -> dict[str, Any]:
        """Audio file -> facts; then `out` holds audio.wav and page.wav (see sandbox.py).

        A file that was under way when the sandbox ended for the sake of another one gets a second try, with all of its
        time. Errors: Undecodable.
        """
        limits = self.limits
        words = {"path": str(path), "out": str(out), "duration_s": limits.duration_s}
        words |= {"decode_s": limits.decode_s, "decode_bytes": limits.decode_bytes}
        async with self.places:
            try:
                found = await self.tried(words)
            except Lost:
                found = await self.tried(words)
        if "died" in found:
            raise Undecodable(fate(found["died"], limits), large=found["died"] == signal.SIGXFSZ)
        if "error" in found:
            raise Undecodable(str(found["error"]), large=bool(found["large"]))
        facts: dict[str, Any] = found["ok"]
        return facts

    async def tried(self, words: dict[str, Any]) -> dict[str, Any]:
        """One try: what a file's job is told -> the sandbox's answer. Errors: Lost."""
        process = await self.started()
        job, future = str(next(self.numbers)), asyncio.get_running_loop().create_future()
        self.waiting[process][job] = future
        try:
            assert process.stdin is not None
            process.stdin.write((json.dumps({"id": job, **words}) + "\n").encode())
            await process.stdin.drain()
            return await asyncio.wait_for(future, PATIENCE * self.limits.decode_s)
        except ConnectionError as error:
            raise Lost() from error
        except TimeoutError:  # its process should have ended by itself, so the sandbox is stuck
            if process is self.process:
                await self.stop()
            return {"died": signal.SIGALRM}
        finally:
            self.waiting.get(process, {}).pop(job, None)

    async def started(self) -> asyncio.subprocess.Process:
        """-> the running sandbox."""
        async with self.starting:
            if self.process is None or self.process.returncode is not None:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "rales.web.sandbox"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,  # libraries complain there about damaged files
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    start_new_session=True,  # so that it ends together with the processes it has forked
                )
                assert process.stdout is not None
                if not await process.stdout.readline():  # it says once that it is ready
                    raise OSError("the decoder of recordings does not start")
                self.process, self.waiting[process] = process, {}
                self.listener = asyncio.create_task(self.listen(process))
            return self.process

    async def listen(self, process: asyncio.subprocess.Process) -> None:
        """Hand the sandbox's answers to whoever waits for them."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            found = json.loads(line)
            if (future := self.waiting[process].get(found["id"])) is not None and not future.done():
                future.set_result(found)
        await process.wait()
        for future in self.waiting.pop(process).values():
            if not future.done():
                future.set_exception(Lost())

    async def stop(self) -> None:
        """End the sandbox with everything that it has forked."""
        if (process := self.process) is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def fate(number: int, limits: Limits) -> str:
    """Signal that ended a decoder -> what that says about the file."""
    if number in (signal.SIGXCPU, signal.SIGALRM):
        return f"takes longer than {limits.decode_s} s to decode; save it as WAV"
    if number == signal.SIGXFSZ:
        return "is too large when decoded; cut it into shorter recordings"
    return "crashed the decoder, so it is damaged or made to do that; save it again as WAV"
