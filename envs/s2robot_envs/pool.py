"""Work spread over processes and handed back in order."""

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
    """Call `function(shared, item)` for every item, in processes.

    At most 2 × `workers` items and results are in memory, and `items` is read no faster than that. The processes come
    from a fork server that has loaded robosuite; each draws with its share of the cores.

    Args:
        function: a module's function, so that it can be sent to a process.
        shared: the same for every item.
        items: what to work on.
        workers: number of processes.

    Yields:
        (item, future) in the items' order; whoever asks the future says what its failure means.
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
    """A future also where the pool takes nothing more because a worker died: whoever asks it hears of that."""
    try:
        return pool.submit(function, *arguments)
    except BrokenProcessPool as error:
        broken: Future[Any] = Future()
        broken.set_exception(error)
        return broken


def _end_with_parent() -> None:
    """End this worker when its parent is killed; the executor's own would wait for work, and hold memory, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a worker

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _in_worker(workers: int, function: Callable[..., Any], shared: Any, item: Any) -> Any:
    limit_worker_threads(workers)
    return function(shared, item)
