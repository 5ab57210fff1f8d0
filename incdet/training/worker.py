"""Work that goes on beside the main thread: one worker, jobs in the order they came."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Worker:
    """A worker thread for jobs that the main thread need not wait for, one after another.

    After a job has failed no later one starts, so that what a job leaves behind is never built on a gap; its exception
    is raised by the next ``submit`` or ``wait``. Leaving the ``with`` block ends the jobs that were submitted, also
    where an exception (Ctrl-C, for example) ends the block; that exception is then the one that is raised.

    Args:
        idle: It does nothing: another process of the run does it.
    """

    def __init__(self, *, idle: bool = False) -> None:
        self._idle = idle
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="incdet")
        self._jobs: list[Future[None]] = []
        self._failed = False

    def submit(self, job: Callable[[], object]) -> None:
        """Queues ``job`` behind the earlier ones.

        Raises:
            Exception: That of an earlier job; ``job`` is not queued then.
        """
        if self._idle:
            return
        self._collect([one for one in self._jobs if one.done()])
        self._jobs.append(self._pool.submit(self._run, job))

    def wait(self) -> None:
        """Returns when every job has ended.

        Raises:
            Exception: That of the first job that failed.
        """
        self._collect(self._jobs)

    def _run(self, job: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            job()
        except BaseException:
            self._failed = True
            raise

    def _collect(self, ended: list[Future[None]]) -> None:
        for job in list(ended):
            job.exception()  # waits; Ctrl-C here leaves the job in the list
            self._jobs.remove(job)
            job.result()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True)
