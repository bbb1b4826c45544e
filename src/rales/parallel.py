"""Tasks spread over processes of this machine or over a Ray cluster; one that dies takes no other with it.

Both ways take tasks only as workers get free, so that a list of any length never stands in memory or in a queue, and
give back each task with its result, or with the error that is left after the retries.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from typing import Any, TypeVar

from rales.optional_packages import require_packages

Task = TypeVar("Task", bound=Hashable)
Work = Callable[..., Any]  # (task, *shared) -> result
AHEAD = 2  # tasks a worker has before it: one it computes, one that waits


def run_in_processes(
    work: Work, tasks: Iterable[Task], shared: tuple[Any, ...], *, processes: int, retries: int = 0
) -> Generator[tuple[Task, Any]]:
    """Tasks in processes that live on from task to task. A process that dies breaks the pool: what was in it is tried
    again in a new one, `retries` times a task. Left early (Ctrl-C), the processes end at once and say nothing."""
    waiting, tries = iter(tasks), Counter[Task]()
    again = deque[Task]()
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    while True:
        running: dict[Future[Any], Task] = {}
        ends_with, kept_open = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent, initargs=(ends_with,))
        try:
            while True:
                while again and len(running) < AHEAD * processes:
                    with ignore_interrupts_in_children():
                        running[pool.submit(work, again[0], *shared)] = again[0]
                    again.popleft()
                for task in islice(waiting, AHEAD * processes - len(running)):
                    with ignore_interrupts_in_children():
                        running[pool.submit(work, task, *shared)] = task
                if not running:
                    pool.shutdown()
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise error
                    task = running.pop(future)
                    yield task, error or future.result()
        except BrokenProcessPool as error:
            for task in running.values():
                tries[task] += 1
                if tries[task] <= retries:
                    again.append(task)
                else:
                    yield task, RuntimeError(f"its process ended {tries[task]} times (out of memory, or killed)")
        finally:
            kept_open.close()
            pool.shutdown(cancel_futures=True)
            ends_with.close()


@contextmanager
def ignore_interrupts_in_children() -> Iterator[None]:
    """Processes that are started here never hear of Ctrl-C, which a terminal sends to all: the one that started them
    does, ends them, and says so once. It hears of it after, if it was meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*others: Connection) -> None:
    """A worker ends with the process that started it, also where that was killed, or where the other end of a pipe is
    closed."""

    def wait_for_the_end() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            wait_for_any([parent.sentinel, *others])
            os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def run_on_ray(
    work: Work,
    tasks: Iterable[Task],
    shared: tuple[Any, ...],
    *,
    processes: int | None,
    address: str | None,
    retries: int = 0,
) -> Generator[tuple[Task, Any]]:
    """The same as Ray tasks, one processor (and one GPU where the cluster has some) each, on the cluster at `address`
    or on one started here with `processes` processors."""
    if address is None:  # its ports are open to the network, so whoever comes must know a token; older versions ask
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # for none unless told to, and read this when imported
    require_packages("a Ray cluster", "ray", "ray")
    import ray

    began_here = not ray.is_initialized()
    if began_here:
        with without_api_server():
            ray.init(
                address=address,
                num_cpus=None if address else processes,
                log_to_driver=False,
                include_dashboard=False,
            )
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = 1 if resources.get("GPU", 0) else 0
    task_of_ray: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=retries)(work)
    at_once = AHEAD * int(resources.get("GPU", 0) or resources.get("CPU", 1))
    waiting, pending = iter(tasks), dict[Any, Task]()
    try:
        while True:
            for task in islice(waiting, at_once - len(pending)):
                pending[task_of_ray.remote(task, *shared)] = task
            if not pending:
                return
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            task = pending.pop(ready)
            try:
                yield task, ray.get(ready)
            except ray.exceptions.RayError as error:  # the worker or its machine is gone, or the work raised
                yield task, error
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if began_here:
            ray.shutdown()


@contextmanager
def without_api_server() -> Iterator[None]:
    """While Ray is started here, its API server stays out. Without the dashboard all it does is to ask three clouds'
    own addresses whether this machine is theirs, where usage statistics are refused too; Ray has no setting for it."""
    from ray._private import node as of_ray

    node_class: Any = of_ray.Node
    started = getattr(node_class, "start_api_server", None)

    def leave_out(node: Any, **_: Any) -> None:
        node._webui_url = ""

    if started is not None:
        node_class.start_api_server = leave_out
    try:
        yield
    finally:
        if started is not None:
            node_class.start_api_server = started
