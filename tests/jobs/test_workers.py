import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from physcon_ase.errors import EngineError
from physcon_ase.jobs import workers
from physcon_ase.jobs.workers import finished, worker_pool

PATIENCE = 120
"""Seconds until a program on a busy machine counts as hanging."""


class Numbers:
    """Queue that hands out two numbers at a time."""

    def __init__(self, numbers: Sequence[int]):
        self.numbers = deque(numbers)

    def take(self) -> list[int]:
        return [self.numbers.popleft() for _ in range(min(2, len(self.numbers)))]

    def put_back(self, jobs: Sequence[int]) -> None:
        self.numbers.extendleft(reversed(jobs))


def squares(deadly: int, numbers: list[int]) -> tuple[list[int], list[int]]:
    """Does the first number only; one number kills the process."""
    if deadly in numbers:
        os._exit(9)
    return [numbers[0] ** 2], numbers[1:]


def lost(number: int) -> tuple[list[int], list[int]]:
    return [-number], []


def test_unfinished_jobs_are_done_later() -> None:
    with worker_pool(0) as here:
        done = list(finished(here, partial(squares, 99), Numbers(range(5)), lost))
    assert sorted(chain(*done)) == [0, 1, 4, 9, 16]
    assert all(len(one) == 1 for one in done)


@pytest.mark.slow
def test_a_job_that_kills_its_process_costs_no_other() -> None:
    with worker_pool(2) as processes:
        done = list(chain(*finished(processes, partial(squares, 3), Numbers(range(6)), lost)))
    assert sorted(done) == [-3, 0, 1, 4, 16, 25]
    with pytest.raises(EngineError, match="worker processes crash repeatedly"), worker_pool(1) as processes:
        list(finished(processes, partial(squares, 3), Numbers([3] * 4), lost))


def test_an_interruption_stops_workers_in_the_middle_of_a_task(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as processes:  # noqa: PT012  # the interruption is the last line
        future = processes.executor.submit(announce_and_sleep, tmp_path / "started")
        while not (tmp_path / "started").exists():
            assert not future.done(), future.result()
            time.sleep(0.02)
        raise KeyboardInterrupt
    assert time.monotonic() - began < PATIENCE < SLEEP


SLEEP = 600
"""Seconds that a worker sleeps."""


def announce_and_sleep(path: Path) -> None:
    path.touch()
    time.sleep(SLEEP)


def test_a_process_that_may_not_have_children_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.multiprocessing.current_process(), "_config", {"daemon": True})
    with worker_pool(3) as here:
        assert here.executor.submit(os.getpid).result() == os.getpid()


class Mortal(Executor):
    """Executor whose worker crashes in tasks with one of the deadly numbers."""

    def __init__(self, deadly: set[int]):
        self.deadly = deadly

    def submit(self, fn, /, *args, **kwargs) -> Future:
        future: Future = Future()
        if self.deadly.isdisjoint(chain(*args[0])):
            future.set_result(fn(*args, **kwargs))
        else:
            future.set_exception(BrokenProcessPool())
        return future


def test_crashes_of_a_divisible_job_are_those_of_its_parts() -> None:
    pool = workers.Workers(Mortal({1, 2}), 1, (BrokenProcessPool,))

    def work(task: list[tuple[int, ...]]) -> tuple[list[int], list[tuple[int, ...]]]:
        return [number**2 for job in task for number in job], []

    def lost_or_divided(job: tuple[int, ...]) -> tuple[list[int], list[tuple[int, ...]]]:
        return ([], [(number,) for number in job]) if len(job) > 1 else ([-job[0]], [])

    done = list(chain(*finished(pool, work, Numbers([(1, 2, 3, 4)]), lost_or_divided)))
    assert done == [-1, -2, 9, 16]
    pool, recorded = workers.Workers(Mortal({1, 2, 3}), 1, (BrokenProcessPool,)), []
    with pytest.raises(EngineError, match="crash repeatedly"):  # noqa: PT012
        for each in finished(pool, work, Numbers([(1, 2, 3)]), lost_or_divided):
            recorded += each
    assert recorded == [-1, -2, -3]
