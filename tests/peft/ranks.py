"""Two processes that run the same function together, kept for the whole test module."""

import multiprocessing
import pickle
import time
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

SECONDS = 120


class Ranks:
    """Rank 0 and rank 1 of a gloo group.  They are started when first needed, and anew after a failure."""

    def __init__(self, folder):
        self.folder, self.started, self.workers = folder, 0, []

    def run(self, function, *args):
        """Return what each rank returns of function(rank, *args); fail with what a rank raised, or after 120 s."""
        if not self.workers:
            self._start()
        for _, pipe in self.workers:
            pipe.send((function, args))
        answers, deadline = [None, None], time.monotonic() + SECONDS
        while any(answer is None for answer in answers):
            for rank, (process, pipe) in enumerate(self.workers):
                if answers[rank] is None and pipe.poll(0.02):
                    answers[rank] = self._answer(rank, process, pipe)
            if time.monotonic() > deadline:
                self._fail(f"no answer within {SECONDS} s from rank {[r for r in (0, 1) if answers[r] is None]}")
        return [result for result, _ in answers]

    def stop(self):
        for process, pipe in self.workers:
            pipe.close()
            process.terminate()
            process.join()
        self.workers = []

    def _start(self):
        self.started += 1
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        for rank in (0, 1):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, str(self.folder / f"store{self.started}"), theirs), daemon=True
            )
            process.start()
            theirs.close()
            self.workers.append((process, ours))

    def _answer(self, rank, process, pipe):
        try:
            answer = pickle.loads(pipe.recv_bytes())  # noqa: S301  # from our own process
        except EOFError:
            process.join()
            self._fail(f"rank {rank} ended with exit code {process.exitcode}")
        if answer[1] is not None:  # the other rank may wait for this one for ever
            self._fail(f"rank {rank}: {answer[1]}")
        return answer

    def _fail(self, message):
        self.stop()
        raise AssertionError(message)


def _serve(rank, store, pipe):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=SECONDS)
    )
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = function(rank, *args), None
        except BaseException:
            answer = None, traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))  # torch would share memory, and lose it with the process
