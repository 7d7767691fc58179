"""Local or Dask worker processes, and the distribution of molecules to them."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final

from physcon_ase.errors import EngineError
from physcon_ase.labelling.geometries import Rejected
from physcon_ase.labelling.journal import complete_line, failed_line
from physcon_ase.labelling.tasks import Job, Plan, work
from physcon_ase.labelling.worker import prepare_worker

_LARGEST_TASK: Final = 32
"""Maximum number of molecules per task."""

_LARGEST_BATCHED_TASK: Final = 128
"""Maximum number of molecules per task for batched engines, which need enough molecules to fill their batches."""

_DEATHS: Final = 3
"""Number of successive worker crashes, without a result in between, after which the run is aborted."""

_ALL_DIE: Final = (
    "worker processes crash repeatedly; finished labels are kept. In a script, call label() under "
    "`if __name__ == '__main__'`; check the memory usage, and the program with processes=0"
)

_DASK_SECONDS: Final = 30
"""Timeout [s] for connecting to the Dask scheduler."""


@dataclass(frozen=True)
class Workers:
    """Pool of worker processes."""

    executor: Executor
    """Executor that runs `tasks.work`."""
    n: int
    """Number of workers."""
    died: tuple[type[BaseException], ...]
    """Exceptions raised by a task whose worker crashed."""


def finished_lines(workers: Workers, plan: Plan, jobs: Sequence[Job]) -> Iterator[list[str]]:
    """Journal lines in the order in which they are finished; two tasks per worker are kept in the queue.

    If a worker crashes, all molecules being processed are repeated one at a time; a molecule that crashes its worker
    again is recorded as failed.
    """
    queue, suspects, n_deaths = deque(jobs), deque[Job](), 0
    largest = _LARGEST_TASK if plan.engine.batched is None else _LARGEST_BATCHED_TASK
    running: dict[Future, list[Job]] = {}
    while queue or suspects or running:
        is_alone = bool(suspects) and not running
        if is_alone:
            task = [suspects.popleft()]
            running[workers.executor.submit(work, plan, task)] = task
        while queue and not suspects and not is_alone and len(running) < 2 * workers.n:
            size = max(1, min(largest, len(queue) // (4 * workers.n)))
            task = [queue.popleft() for _ in range(min(size, len(queue)))]
            running[workers.executor.submit(work, plan, task)] = task
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            try:
                lines, rest = future.result()
            except workers.died:
                if not is_alone:
                    suspects.extend(task)
                    continue
                lines, rest, n_deaths = _died(task[0]), [], n_deaths + 1
                if n_deaths == _DEATHS:
                    raise EngineError(_ALL_DIE) from None
            else:
                n_deaths = 0
            (suspects if is_alone else queue).extendleft(reversed(rest))
            yield lines


def _died(job: Job) -> list[str]:
    number = next(number for number in itertools.count() if number not in job.done)
    reason = "the worker process crashed (out of memory, or an error of the program); try fewer processes"
    return [failed_line(job.row, number, Rejected("", "WorkerDied", reason)), complete_line(job.row, number + 1)]


class _InThisProcess(Executor):
    """Executor that runs tasks immediately in the current process."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class _ProcessPool(Executor):
    """Process pool that is restarted after a crash of a worker."""

    def __init__(self, n_workers: int):
        self.n_workers, self.pool = n_workers, self._new(n_workers)

    @staticmethod
    def _new(n_workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(n_workers, mp_context=get_context("spawn"), initializer=prepare_worker)

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        try:
            return self.pool.submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            self.pool = self._new(self.n_workers)
            return self.pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.pool.shutdown(wait=wait, cancel_futures=cancel_futures)


@contextmanager
def employed(processes: int | None, scheduler: str | None) -> Iterator[Workers]:
    """Context manager that provides workers.

    Args:
        processes: number of local worker processes; one per core if None, 0 to work in the current process.
        scheduler: address of a Dask scheduler whose workers are used instead.

    Raises:
        EngineError: Dask is not installed, does not answer or has no workers.
    """
    if scheduler is not None:
        with _dask_workers(scheduler) as workers:
            yield workers
        return
    n_workers = _n_cores() if processes is None else processes
    if n_workers == 0:
        yield Workers(_InThisProcess(), 1, ())
        return
    executor = _ProcessPool(n_workers)
    try:
        yield Workers(executor, n_workers, (BrokenProcessPool,))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _dask_workers(scheduler: str) -> Iterator[Workers]:
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise EngineError("Dask is not installed: pip install 'physcon-ase[dask]'") from error
    try:
        client: Any = Client(scheduler, timeout=_DASK_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise EngineError(f"cannot connect to a Dask scheduler at {scheduler}: {error}; check the address") from error
    with client:
        n_workers = sum(client.nthreads().values())
        if n_workers == 0:
            raise EngineError(f"the Dask scheduler at {scheduler} has no workers; start workers with one thread each")
        yield Workers(client.get_executor(), n_workers, (KilledWorker,))


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
