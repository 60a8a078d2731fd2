"""One process for each runtime, behind a pipe: questions and answers are lines of JSON.

A worker without a question sleeps in a read, and so do its threads. Thus the thread pool, allocator and garbage
collector of one system do not disturb another, and each system is measured as if it ran alone.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mixer.errors import MixerError

PAUSE = 0.02  # seconds before a question: idle OpenMP threads spin for some milliseconds before they sleep
RUNNERS = {
    "mixer": "bench.harness.run_mixer:MixerRunner",
    "rewards": "bench.harness.run_rewards:RewardsRunner",
    "torch": "bench.harness.run_torch:TorchRunner",
    "llama.cpp": "bench.harness.run_llama_cpp:LlamaCppRunner",
}


class WorkerFailed(MixerError):
    """A system that could not be loaded or did not survive its run."""


class Worker:
    """A runtime in a process of its own. It is not ready when this returns: see `ready`.

    Args:
        kind: a key of `RUNNERS`.
        threads: most threads of its OpenMP pools.
        options: further arguments of the runner's class; JSON values.
    """

    def __init__(self, kind: str, threads: int, **options: Any) -> None:
        self.kind = kind
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.harness.worker", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._send({"threads": threads, **options})

    def ready(self) -> Any:
        """Wait until the runner is loaded; returns its `facts`.

        Raises:
            WorkerFailed: it cannot be loaded; the message has the reason.
        """
        return self._receive()

    def ask(self, question: str, **values: Any) -> Any:
        """Call a method of the runner.

        Raises:
            WorkerFailed: the method raised, or the process ended.
        """
        time.sleep(PAUSE)
        self._send({"question": question, "values": values})
        return self._receive()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):  # it ended before it read everything
                    pipe.close()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, record: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            print(json.dumps(record), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise WorkerFailed(f"The process that runs {self.kind} has ended.", "Its stderr says why.") from error

    def _receive(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(f"The process that runs {self.kind} has ended.", "Its stderr says why.")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(f"{self.kind}: {answer['error']}")
        return answer["answer"]


def serve(argv: Sequence[str]) -> None:
    """The side of the worker: make the runner, then answer until the pipe closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    runner: Any = None
    for line in sys.stdin:
        record = json.loads(line)
        try:
            if runner is None:
                module, _, name = RUNNERS[argv[0]].partition(":")
                runner = getattr(importlib.import_module(module), name)(**record)
                answer = runner.facts()
            else:
                answer = getattr(runner, record["question"])(**record["values"])
            result = {"answer": answer}
        except MixerError as error:
            result = {"error": str(error)}
        except Exception as error:  # the parent process decides what a failure means
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), file=answers, flush=True)
        if runner is None:
            return


if __name__ == "__main__":
    serve(sys.argv[1:])
