"""Local or Dask worker processes, and the distribution of jobs to them."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any, Final, Generic, Protocol, TypeVar, runtime_checkable

from physcon_ase.errors import EngineError
from physcon_ase.interrupts import uninterrupted
from physcon_ase.jobs.worker import prepare_worker

_DEATHS: Final = 3
"""Number of successive worker crashes, without a result in between, after which the run is aborted."""

_ALL_DIE: Final = (
    "worker processes crash repeatedly; finished results are kept. In a script, make the call under "
    "`if __name__ == '__main__'`; check the memory usage, and the program in a single process"
)

_DASK_SECONDS: Final = 30
"""Timeout [s] for connecting to the Dask scheduler."""

WORKER_DIED: Final = "the worker process crashed (out of memory, or an error of the program); try fewer processes"
"""Reason of a job that crashed its worker."""

JobT = TypeVar("JobT")
DoneT = TypeVar("DoneT")


@runtime_checkable
class Queue(Protocol[JobT]):
    """Jobs that wait for a worker."""

    def take(self) -> list[JobT]:
        """Removes and returns the jobs of the next task; an empty list if there are none."""
        ...

    def put_back(self, jobs: Sequence[JobT]) -> None:
        """Puts unfinished jobs to the front."""
        ...


class SingleJobs(Generic[JobT]):
    """Queue of tasks of one job each."""

    def __init__(self, jobs: Iterable[JobT]):
        """The jobs, for instance a generator."""
        self._jobs, self._returned = iter(jobs), list[JobT]()

    def take(self) -> list[JobT]:
        """Removes and returns the next job."""
        return [self._returned.pop()] if self._returned else list(islice(self._jobs, 1))

    def put_back(self, jobs: Sequence[JobT]) -> None:
        """Puts jobs to the front."""
        self._returned.extend(reversed(jobs))


@dataclass(frozen=True)
class Workers:
    """Pool of worker processes."""

    executor: Executor
    """Executor that runs the tasks."""
    n: int
    """Number of workers."""
    died: tuple[type[BaseException], ...]
    """Exceptions raised by a task whose worker crashed."""
    tasks_per_worker: int = 2
    """Number of tasks per worker that are submitted, so that no worker waits for its next one."""

    @property
    def n_running(self) -> int:
        """Number of tasks that are submitted at the same time."""
        return self.tasks_per_worker * self.n


def finished(
    workers: Workers,
    work: Callable[[list[JobT]], tuple[list[DoneT], list[JobT]]],
    queue: Queue[JobT],
    lost: Callable[[JobT], tuple[list[DoneT], list[JobT]]],
) -> Iterator[list[DoneT]]:
    """Results in the order in which they are finished.

    If a worker crashes, all jobs being processed are repeated one at a time.

    Args:
        workers: the pool.
        work: does the jobs of a task; returns its results and the jobs that it left unfinished. Has to be picklable,
            like jobs and results, unless the workers are this process.
        queue: the jobs.
        lost: called with a job that crashed its worker when it ran alone; returns results that report the failure and
            the jobs that are left, e.g. the parts of a divisible job.

    Raises:
        EngineError: worker processes crash repeatedly.
    """
    suspects, n_deaths, is_exhausted = deque[JobT](), 0, False
    running: dict[Future, list[JobT]] = {}
    while True:
        is_alone = bool(suspects) and not running
        if is_alone:
            task = [suspects.popleft()]
            running[workers.executor.submit(work, task)] = task
        while not suspects and not is_alone and not is_exhausted and len(running) < workers.n_running:
            task = queue.take()
            if task:
                running[workers.executor.submit(work, task)] = task
            is_exhausted = not task
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            try:
                done, rest = future.result()
            except workers.died:
                if not is_alone:
                    suspects.extend(task)
                    continue
                done, rest = lost(task[0])
                n_deaths += not rest  # a divisible job may owe its crash to one of its parts
                if n_deaths == _DEATHS:
                    yield done
                    raise EngineError(_ALL_DIE) from None
            else:
                n_deaths = 0
            if is_alone:
                suspects.extendleft(reversed(rest))
            elif rest:
                queue.put_back(rest)
                is_exhausted = False
            yield done


class _InThisProcess(Executor):
    """Executor that runs tasks immediately in the current process."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class _ProcessPool(Executor):
    """Process pool that is restarted after a crash of a worker, and whose workers can be stopped at once."""

    def __init__(self, n_workers: int):
        self.n_workers = n_workers
        self._start()

    def _start(self) -> None:
        # "spawn": a forked child could inherit a lock held by a PyTorch thread.
        context = get_context("spawn")
        stop, self._stopper = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(self.n_workers, context, initializer=prepare_worker, initargs=(stop,))

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        with uninterrupted():
            try:
                return self.pool.submit(fn, *args, **kwargs)
            except BrokenProcessPool:
                self._start()
                return self.pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def stop(self) -> None:
        """Stops the workers in the middle of their tasks."""
        self._stopper.close()
        self.pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def worker_pool(processes: int | None, scheduler: str | None = None) -> Iterator[Workers]:
    """Context manager that provides workers; if it is left by an exception, the workers are stopped at once.

    A daemonic process, e.g. a worker of `multiprocessing.Pool`, may not have children and does the work itself.

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
    if n_workers == 0 or multiprocessing.current_process().daemon:
        yield Workers(_InThisProcess(), 1, (), tasks_per_worker=1)
        return
    executor = _ProcessPool(n_workers)
    try:
        yield Workers(executor, n_workers, (BrokenProcessPool,))
    except BaseException:
        executor.stop()
        raise
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
