"""Tasks as jobs of a Slurm cluster (submitit), as `rales.parallel` spreads them over processes or Ray."""

import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from rales.errors import UsageError
from rales.optional_packages import require_packages
from rales.parallel import Task, Work, make_portable_error

AT_ONCE = 100  # jobs that are queued or run at a time, if nobody says otherwise
LOOK_S = 5.0  # between two looks whether a job has ended


def run_on_slurm(
    work: Work,
    tasks: Iterable[Task],
    shared: tuple[Any, ...],
    *,
    folder: Path,
    options: Sequence[str] = (),
    processes: int | None = None,
    retries: int = 0,
    cluster: str = "slurm",
    wait: Callable[[float], object] = time.sleep,
) -> Generator[tuple[Task, Any]]:
    """Tasks -> each with its result or its error, as they end. Left early (Ctrl-C), the jobs are cancelled.

    Parameters
    ----------
    work, tasks, shared, retries
        As of `rales.parallel.run_in_processes`; a retry is for a job that ended without an answer.
    folder
        What the jobs read and write, and their logs; all nodes must see it.
    options
        `name=value` words of sbatch: partition=gpu, time=120, gpus-per-node=1.
    processes
        Jobs at a time, queued ones too.
    cluster
        Of submitit; local starts processes of this machine instead.
    wait
        Called with the seconds until the next look.

    Errors: no submitit, no Slurm here, an option that is no `name=value`.
    """
    named = parse_options(options)
    require_packages("a Slurm cluster", "slurm", "submitit")
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UsageError("slurm: no sbatch on this machine; start this on a login node of the cluster, or leave it out")
    import submitit

    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    known = submitit.SlurmExecutor._valid_parameters()
    of_sbatch = {f"slurm_{name}": value for name, value in named.items() if name in known}
    others = {name: value for name, value in named.items() if name not in known}
    executor.update_parameters(name="rales", **of_sbatch, **({"slurm_additional_parameters": others} if others else {}))

    waiting, again, deaths = iter(tasks), deque[Task](), Counter[Task]()
    pending = dict[Any, Task]()
    try:
        while True:
            while len(pending) < (processes or AT_ONCE):
                task = again.popleft() if again else next(waiting, None)
                if task is None:
                    break
                pending[submit_task(executor, work, task, shared)] = task
            if not pending:
                return
            ended = [job for job in pending if job.done()]
            if not ended:
                wait(LOOK_S)
            for job in ended:
                task = pending.pop(job)
                error = job.exception()
                if error is not None and deaths[task] < retries:
                    deaths[task] += 1
                    again.append(task)
                else:
                    yield task, describe_death(job) if error is not None else job.result()
    finally:
        for job in pending:
            job.cancel(check=False)


def submit_task(executor: Any, work: Work, task: Task, shared: tuple[Any, ...]) -> Any:
    """-> its job. Errors: Slurm refuses it (a partition that is not there, a limit), in the words of sbatch."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return executor.submit(answer_task, work, task, *shared)
    except (FailedJobError, FailedSubmissionError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"slurm: sbatch refused a job, whose options --sbatch gives: {said}") from error


def answer_task(work: Work, task: Any, *shared: Any) -> Any:
    """What a job does; an error of the work is its answer, since only a job that died is tried again."""
    try:
        return work(task, *shared)
    except Exception as error:
        return make_portable_error(error)


def describe_death(job: Any) -> RuntimeError:
    """Job that ended without an answer -> the sentence that says so."""
    return RuntimeError(f"its job {job.job_id} ended as {job.state} without an answer; its log is {job.paths.stderr}")


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """`name=value` words of sbatch -> by name with _ for -, whole numbers as such. Errors: another word."""
    named: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not (name and equals and value):
            raise UsageError(f"--sbatch {word}: expected name=value of sbatch, for example partition=gpu")
        named[name.replace("-", "_")] = int(value) if value.isdecimal() else value
    return named
