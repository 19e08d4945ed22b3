"""Put requests that wait at the same time into one batch, and run the batches in one thread."""

import asyncio
import collections
import concurrent.futures
import re
from collections.abc import Callable, Hashable
from typing import NamedTuple

import numpy as np

from resnet_tf.serving import runtimes


class _Job(NamedTuple):
    kind: Hashable
    items: list
    answer: asyncio.Future


class Batcher:
    """A queue in front of a model. While a batch runs, the next requests gather and form the next batch.

    Attributes:
        batches: number of batches that were run.
    """

    def __init__(self, run: Callable[[Hashable, list], dict[str, np.ndarray]], batch_size: int, seconds: float):
        """Prepare an empty queue.

        Args:
            run: function(kind, items) that returns {name: array [len(items), ...]}; it runs in one thread. It raises
                `runtimes.Refused` if some items are bad.
            batch_size: most items of a batch.
            seconds: longest wait of a job for others.
        """
        self.batches = 0
        self._run, self._batch_size, self._seconds = run, batch_size, seconds
        self._jobs, self._arrived = collections.deque(), asyncio.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")

    async def submit(self, kind: Hashable, items: list) -> dict[str, np.ndarray]:
        """Run items, possibly in a batch with others of the same kind.

        Returns:
            {name: array}, a row for each item.

        Raises:
            runtimes.Refused: some of these items are bad; those of other jobs do not matter.
        """
        job = _Job(kind, items, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._arrived.set()
        return await job.answer

    async def work(self) -> None:
        """Run batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            jobs = await self._gather()
            answers = await loop.run_in_executor(self._thread, self._answers, jobs)
            for job, answer in zip(jobs, answers, strict=True):
                if job.answer.done():  # its client is gone
                    continue
                if isinstance(answer, Exception):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)

    def close(self) -> None:
        """End the thread after the batch that runs."""
        self._thread.shutdown()

    async def _gather(self):
        """Return the jobs of the next batch, in the order of their arrival."""
        while not self._jobs:
            await self._wait(None)
        end = asyncio.get_running_loop().time() + self._seconds
        jobs = [self._jobs.popleft()]
        while True:
            count = sum(len(job.items) for job in jobs)
            if self._jobs:
                following = self._jobs[0]
                if following.kind != jobs[0].kind or count + len(following.items) > self._batch_size:
                    return jobs
                jobs.append(self._jobs.popleft())
            elif count >= self._batch_size or not await self._wait(end - asyncio.get_running_loop().time()):
                return jobs

    async def _wait(self, seconds):
        """Wait for another job; return whether one came in time."""
        self._arrived.clear()
        if seconds is not None and seconds <= 0:
            return False
        try:
            await asyncio.wait_for(self._arrived.wait(), seconds)
        except TimeoutError:
            return bool(self._jobs)
        return True

    def _answers(self, jobs):
        """Return the result of each job, or its exception; halve a batch that fails until what is bad is alone."""
        try:
            outputs = self._run_all(jobs[0].kind, [item for job in jobs for item in job.items])
        except Exception as error:  # whatever it is: the queue goes on
            if len(jobs) == 1:
                return [error]
            middle = len(jobs) // 2
            return self._answers(jobs[:middle]) + self._answers(jobs[middle:])
        ends = np.cumsum([len(job.items) for job in jobs])
        return [
            {name: values[end - len(job.items) : end] for name, values in outputs.items()}
            for job, end in zip(jobs, ends, strict=True)
        ]

    def _run_all(self, kind, items):
        """Run items in batches; a refusal names the positions among all of them."""
        parts = []
        for start in range(0, len(items), self._batch_size):
            try:
                parts.append(self._run(kind, items[start : start + self._batch_size]))
            except runtimes.Refused as error:
                raise type(error)(_shifted(str(error), start)) from None
            self.batches += 1
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _shifted(message, start):
    def moved(found):
        return f"[{', '.join(str(int(one) + start) for one in found[1].split(', '))}]"

    return re.sub(r"\[(\d+(?:, \d+)*)\]", moved, message, count=1)
