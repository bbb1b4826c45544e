"""Decode uploads to sound that is safe to read, in the processes of `sandbox.py`."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from rales.web.settings import Limits

TRIES = 3  # to start the sandbox and have a file decoded, where that fails for a reason outside the file
START_S = 60.0  # by the clock that the sandbox may take to start
PATIENCE = 4  # times the limit of processor time; by the clock, a job's own process ends itself after three times

ENDED = "was under way when the decoder ended; send it again"
UNSTARTED = "was not decoded, because the decoder of recordings does not start; send it again"
log = logging.getLogger(__name__)


class Undecodable(Exception):
    """A sentence about a file that is not taken, and whether that is because it is too large."""

    def __init__(self, sentence: str, *, large: bool) -> None:
        super().__init__(sentence)
        self.large = large


class DecoderRestarted(Undecodable):
    """The sandbox did not start, or ended while it worked on a file, for a reason that need not lie in that file."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, large=False)


class Decoder:
    """Runs the sandbox and hands it files; a sandbox that has died is started again for the next file."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process: asyncio.subprocess.Process | None = None
        self.listeners: set[asyncio.Task[None]] = set()
        self.waiting: dict[asyncio.subprocess.Process, dict[str, asyncio.Future[dict[str, Any]]]] = {}
        self.numbers = itertools.count()
        self.places = asyncio.Semaphore(limits.decoders)
        self.starting = asyncio.Lock()

    async def decode(self, path: Path, out: Path | None) -> dict[str, Any]:
        """Audio file -> facts; then `out`, where one is given, holds audio.wav and page.wav (see sandbox.py).

        A file that was under way when the sandbox ended, or for which it did not start, is tried again, with all of its
        time. Errors: Undecodable; Lost after the last try.
        """
        limits = self.limits
        words = {"path": str(path), "out": str(out) if out else None, "duration_s": limits.duration_s}
        words |= {"decode_s": limits.decode_s, "decode_bytes": limits.decode_bytes}
        async with self.places:
            answer = await self.repeated(words)
        if "died" in answer:
            raise Undecodable(describe_signal(answer["died"], limits), large=answer["died"] == signal.SIGXFSZ)
        if "error" in answer:
            raise Undecodable(str(answer["error"]), large=bool(answer["large"]))
        facts: dict[str, Any] = answer["ok"]
        return facts

    async def repeated(self, words: dict[str, Any]) -> dict[str, Any]:
        """What a file's job is told -> the sandbox's answer. Errors: Lost after the last try."""
        for _ in range(TRIES - 1):
            try:
                return await self.tried(words)
            except DecoderRestarted as error:
                log.warning("a recording %s", error)
        return await self.tried(words)

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
            await end_sandbox(process)
            raise DecoderRestarted(ENDED) from error
        except TimeoutError:  # its process should have ended by itself, so the sandbox is stuck
            await end_sandbox(process)
            return {"died": signal.SIGALRM}
        finally:
            self.waiting.get(process, {}).pop(job, None)

    async def warm(self) -> None:
        """Start the sandbox before the first file comes."""
        try:
            await self.started()
        except DecoderRestarted as error:  # the first file tries again
            log.warning("no recording yet, but one %s", error)

    async def started(self) -> asyncio.subprocess.Process:
        """-> the running sandbox. Errors: Lost."""
        async with self.starting:
            if self.process is None or self.process not in self.waiting or self.process.returncode is not None:
                process = self.process = await start_sandbox()
                self.waiting[process] = {}
                listener = asyncio.create_task(self.listen(process))
                self.listeners.add(listener)
                listener.add_done_callback(self.listeners.discard)
            return self.process

    async def listen(self, process: asyncio.subprocess.Process) -> None:
        """Hand the sandbox's answers to whoever waits for them; whatever ends this ends the sandbox."""
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                answer = json.loads(line)
                if (future := self.waiting[process].get(answer["id"])) is not None and not future.done():
                    future.set_result(answer)
        except (ValueError, KeyError, TypeError) as error:  # a file has made its decoder write there
            log.warning("the decoder of recordings gave no answer that can be read: %s", error)
        await end_sandbox(process)
        for future in self.waiting.pop(process).values():
            if not future.done():
                future.set_exception(DecoderRestarted(ENDED))

    async def stop(self) -> None:
        """End every sandbox, also one whose files go on after it, with all that it has forked."""
        for process in list(self.waiting):
            await end_sandbox(process)


async def start_sandbox() -> asyncio.subprocess.Process:
    """-> a sandbox that takes files. Errors: Lost."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "rales.web.sandbox"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # libraries complain there about damaged files
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # so that it ends together with the processes it has forked
        )
    except OSError as error:  # too many processes or open files
        raise DecoderRestarted(f"{UNSTARTED} ({error.strerror})") from error
    ready = b""
    try:
        assert process.stdout is not None
        ready = await asyncio.wait_for(process.stdout.readline(), START_S)  # it says once that it is ready
    except TimeoutError as error:
        raise DecoderRestarted(f"{UNSTARTED} (it was not ready after {START_S:g} s)") from error
    finally:
        if not ready:
            await end_sandbox(process)
    if not ready:
        raise DecoderRestarted(f"{UNSTARTED} (it ended with {process.returncode})")
    return process


async def end_sandbox(process: asyncio.subprocess.Process) -> None:
    """End a sandbox with everything that it has forked."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def describe_signal(number: int, limits: Limits) -> str:
    """Signal that ended a decoder -> what that says about the file."""
    if number in (signal.SIGXCPU, signal.SIGALRM):
        return f"takes longer than {limits.decode_s} s to decode; save it as WAV"
    if number == signal.SIGXFSZ:
        return "is too large when decoded; cut it into shorter recordings"
    return "crashed the decoder, so it is damaged or made to do that; save it again as WAV"
