"""Work that goes on beside other work: reading ahead, and writing behind."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items in their order, made in a thread of their own up to `depth` ahead of the one that is asked for.

    What making an item raises is raised where it is asked for. Closing the iterator ends the thread.
    """
    waiting: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(maxsize=max(1, depth))
    closed = threading.Event()

    def put(what: tuple[list[T], BaseException | None]) -> bool:
        while not closed.is_set():
            try:
                waiting.put(what, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(([item], None)):
                    return
        except BaseException as error:
            put(([], error))
        else:
            put(([], None))

    thread = threading.Thread(target=make, name="reading ahead", daemon=True)
    thread.start()
    try:
        while True:
            made, error = waiting.get()
            if error is not None:
                raise error
            if not made:
                return
            yield made[0]
    finally:
        closed.set()
        thread.join()


def behind(work: Callable[[T], R], items: Iterable[T], depth: int) -> Generator[R, None, None]:
    """`work` of each item, in their order, in a thread of its own: while one is worked on, the next is made here.

    At most `depth` results wait. What `work` raises is raised here.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="writing behind") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                while len(pending) > depth or (pending and pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for left in pending:
                left.cancel()
