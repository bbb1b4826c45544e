"""Tasks spread over processes of this machine or over a Ray cluster; one that dies takes no other with it.

Both ways take tasks only as workers get free, so that a list of any length never stands in memory or in a queue, and
give back each task with its result, or with the error that is left after the retries.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

from rales.optional_packages import require_packages

Task = TypeVar("Task", bound=Hashable)
Work = Callable[..., Any]  # (task, *shared) -> result
AHEAD = 2  # tasks a worker of Ray has before it: one it computes, one that waits


def run_in_processes(
    work: Work,
    tasks: Iterable[Task],
    shared: tuple[Any, ...],
    *,
    processes: int,
    retries: int = 0,
    process_per_task: bool = False,
    environments: Sequence[Mapping[str, str]] = (),
) -> Generator[tuple[Task, Any]]:
    """Tasks -> each with its result or its error, as they end. Left early (Ctrl-C), the processes end at once and say
    nothing.

    Parameters
    ----------
    work
        Called as work(task, *shared) in a process; what it raises is the task's result.
    tasks
        Taken one by one as processes get free; none is None.
    shared
        Further arguments of every call.
    processes
        Processes at a time.
    retries
        How often a task whose process died is tried again in a new one.
    process_per_task
        Whether each task has a process of its own; else they live on from task to task.
    environments
        Environment variables, in turn for each of the processes: a GPU each, for instance.
    """
    pool = _Pool(work, shared, processes, environments)
    waiting, again, deaths = iter(tasks), deque[Task](), Counter[Task]()
    busy = dict[Any, tuple[_Worker, Task]]()
    try:
        while True:
            while len(busy) < processes:
                task = again.popleft() if again else next(waiting, None)
                if task is None:
                    break
                worker = pool.hand_over(task)
                busy[worker.connection] = worker, task
            if not busy:
                return pool.end_idle()

            for connection in wait_for_any(list(busy)):
                worker, task = busy.pop(connection)
                try:
                    result = worker.connection.recv()
                except (EOFError, OSError):  # it died over this task
                    pool.end(worker)
                    deaths[task] += 1
                    if deaths[task] <= retries:
                        again.append(task)
                        continue
                    result = RuntimeError(how_it_ended(worker.process.exitcode, deaths[task]))
                else:
                    pool.end(worker) if process_per_task else pool.idle.append(worker)
                yield task, result
    finally:
        pool.terminate()


class _Worker(NamedTuple):
    """A process that answers each task sent through the connection; `place` is its number among those at work."""

    process: BaseProcess
    connection: Any
    place: int


class _Pool:
    """The workers of `run_in_processes`: those without a task in `idle`, all that were not ended in `alive`."""

    def __init__(
        self, work: Work, shared: tuple[Any, ...], processes: int, environments: Sequence[Mapping[str, str]]
    ) -> None:
        self.work, self.shared, self.environments = work, shared, environments or ({},)
        self.idle, self.alive = list[_Worker](), list[_Worker]()
        self.places = deque(range(processes))

    def hand_over(self, task: Hashable) -> _Worker:
        """-> the worker that has the task now: one that was idle, else a new one."""
        while self.idle:
            worker = self.idle.pop()
            try:
                worker.connection.send(task)
                return worker
            except OSError:  # it died while it had nothing to do
                self.end(worker)
        return self.start(task)

    def start(self, task: Hashable) -> _Worker:
        """-> a new worker, which begins with the task: nobody waits until it has come up to take it."""
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        ours, theirs = context.Pipe()
        place = self.places.popleft()
        variables = dict(self.environments[place % len(self.environments)])
        words = (theirs, variables, self.work, self.shared, task)
        process = context.Process(target=_answer_tasks, args=words, daemon=True)
        worker = _Worker(process, ours, place)
        with ignore_interrupts_in_children():
            process.start()
            self.alive.append(worker)
        theirs.close()
        return worker

    def end(self, worker: _Worker) -> None:
        """Let a worker that has no task, or is dead already, end."""
        with suppress(OSError):
            worker.connection.send(None)  # not by closing alone: another process may hold a copy of this end
        worker.connection.close()
        worker.process.join()
        self.places.append(worker.place)
        self.alive.remove(worker)

    def end_idle(self) -> None:
        while self.idle:
            self.end(self.idle.pop())

    def terminate(self) -> None:
        """End at once what is still there."""
        for worker in self.alive:
            worker.process.terminate()
        for worker in self.alive:
            worker.process.join()


def _answer_tasks(
    connection: Any, variables: Mapping[str, str], work: Work, shared: tuple[Any, ...], task: Hashable | None
) -> None:
    """What a worker does until it is told to end, by None, or the other end of its connection is closed."""
    _end_with_parent()
    os.environ.update(variables)  # CUDA_VISIBLE_DEVICES is read when the first tensor goes to a GPU
    with suppress(EOFError):
        while task is not None:
            try:
                answer = work(task, *shared)
            except Exception as error:
                answer = make_portable_error(error)
            connection.send(answer)
            task = connection.recv()


def make_portable_error(error: Exception) -> Exception:
    """Exception -> itself, or its sentence where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def how_it_ended(exitcode: int | None, times: int = 1) -> str:
    """Exit code of a process that gave no answer, and how often that was so -> a sentence."""
    often = f" {times} times" if times > 1 else ""
    if exitcode is not None and exitcode < 0:
        return f"its process was ended{often} by {signal.Signals(-exitcode).name} (out of memory, or killed)"
    return f"its process ended{often} with exit code {exitcode} and no answer"


@contextmanager
def ignore_interrupts_in_children() -> Iterator[None]:
    """Processes that are started here never hear of Ctrl-C, which a terminal sends to all: the one that started them
    does, ends them, and says so once. It hears of it after, if it was meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start lets the signal through again, so it is not left to the first child
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """A worker ends with the process that started it, also where that was killed."""

    def wait_for_the_end() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            wait_for_any([parent.sentinel])
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
                yield task, getattr(error, "cause", None) or error  # the text of Ray's own is the worker's traceback
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
