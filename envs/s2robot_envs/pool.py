"""Distribute work over processes and return the results in order."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from s2robot_envs.vector import limit_worker_threads, prepare_fork_server

Item = TypeVar("Item")


def run_in_order(
    function: Callable[..., Any], shared: Any, items: Iterable[Item], workers: int
) -> Generator[tuple[Item, Future[Any]]]:
    """Call `function(shared, item)` for every item, in worker processes.

    At most 2 × `workers` items and results are in memory, and `items` is read no faster than that. The processes come
    from a fork server that has loaded robosuite; each renders with its share of the cores.

    Args:
        function: a function at module level, so that it can be pickled.
        shared: first argument, the same for every item.
        items: the items to work on.
        workers: number of processes.

    Yields:
        (item, future) in the order of the items; the caller turns a future's exception into an error text.
    """
    prepare_fork_server()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), initializer=_end_with_parent)
    waiting: deque[tuple[Item, Future[Any]]] = deque()
    upcoming = iter(items)
    try:
        while True:
            for item in itertools.islice(upcoming, 2 * workers - len(waiting)):
                waiting.append((item, _submit(pool, _in_worker, workers, function, shared, item)))
            if not waiting:
                return
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Submit a call; if a worker's death broke the pool, return a future that holds the error instead of raising it."""
    try:
        return pool.submit(function, *arguments)
    except BrokenProcessPool as error:
        broken: Future[Any] = Future()
        broken.set_exception(error)
        return broken


def _end_with_parent() -> None:
    """End this worker when its parent is killed: by default it would wait for work, and hold memory, forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a worker

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _in_worker(workers: int, function: Callable[..., Any], shared: Any, item: Any) -> Any:
    limit_worker_threads(workers)
    return function(shared, item)
