"""What all speed benchmarks share: workers, prompts, files for peers, and the check of every system before any timing.

Each runtime has a worker process of its own, and only one of them works at a time; see `worker` for the reason.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.harness.checks import Verdict, compare_with_reference
from bench.harness.config import BenchConfig, adapters_in, link_anchors, prompt_of
from bench.harness.processes import OtherPrograms, other_programs_lines
from bench.harness.worker import Worker, WorkerFailed
from mixer.errors import InvalidValue


@dataclass(frozen=True)
class Prompt:
    """A prompt in the two forms that workers take: text for the desk, token ids for peers."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class System:
    """One system under test: a runtime with a mix. It is one row of a table.

    Attributes:
        worker: the worker that runs it, a key of `Harness.workers`.
        coefficients: the coefficients that the worker gets.
        options: further arguments of the worker, such as `mode` for PEFT.
        mix: the coefficients that the reference runs with, where they differ from `coefficients`.
    """

    label: str
    worker: str
    coefficients: list[float]
    options: dict[str, Any] = field(default_factory=dict)
    mix: list[float] = field(default_factory=list)

    @property
    def reference_mix(self) -> list[float]:
        """The coefficients that the reference runs with."""
        return self.mix or self.coefficients


class Harness:
    """The workers of one benchmark; use it as a context.

    Args:
        counts: numbers of anchors that the benchmark needs, each even. The shipped number, rounded down to an even
            one, is always there.
    """

    def __init__(self, config: BenchConfig, counts: Sequence[int] = ()) -> None:
        self.config = config
        self._shipped = adapters_in(config.anchors)
        self.anchors = max(2, len(self._shipped) // 2 * 2)
        self._counts = sorted({*counts, self.anchors})
        self.workers: dict[str, Worker] = {}
        self.facts: dict[str, Any] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Harness:
        config, base = self.config, str(self.config.base)
        self._folder = tempfile.TemporaryDirectory(prefix="mixer-bench-")
        try:
            layouts = {str(count): f"{self._folder.name}/{count}" for count in self._counts}
            for count, folder in layouts.items():
                self.adapters = link_anchors(self._shipped, int(count), Path(folder))
            folders = [str(folder) for folder in self.adapters]
            for kind, own in (("mixer", {"layouts": layouts}), ("torch", {"adapters": folders})):
                self.workers[kind] = Worker(kind, config.threads, base=base, dtype=config.dtype, **own)
            self.facts = {kind: worker.ready() for kind, worker in self.workers.items()}
            if "llama.cpp" in config.peers:
                self._start_llama_cpp()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()
        self._folder.cleanup()

    @property
    def context(self) -> int:
        """The most tokens that a text can have."""
        return int(self.facts["mixer"]["context"])

    def has(self, peer: str) -> bool:
        """Whether a peer takes part."""
        return peer in self.config.peers and peer not in self.missing

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the base."""
        return Tokenizer.from_file(str(self.config.base / "tokenizer.json"))

    def prompt(self, tokens: int, new: int, turn: int = 0) -> Prompt:
        """A prompt of about `tokens` tokens, fewer where `new` tokens would not fit after it; each turn has its own.

        Raises:
            InvalidValue: fewer than four tokens are left for the prompt.
        """
        tokens = min(tokens, self.context - new)
        if tokens < 4:
            raise InvalidValue(f"{new} new tokens do not fit this model's context of {self.context}.", "Ask for fewer.")
        text = prompt_of(self.tokenizer, tokens, turn)
        return Prompt(text, self.tokenizer.encode(text).ids)

    def ask(self, system: System, question: str, prompt: Prompt, **values: Any) -> Any:
        """Call a method of the system's runner with a prompt."""
        given = {"prompt": prompt.text} if system.worker == "mixer" else {"ids": prompt.ids}
        return self.workers[system.worker].ask(question, **given, **system.options, **values)

    def write(self, system: System, prompt: Prompt, tokens: int) -> dict[str, Any]:
        """One text of this many tokens."""
        return self.ask(system, "write", prompt, coefficients=system.coefficients, tokens=tokens)

    def tune(self, system: System, prompt: Prompt) -> str:
        """Let llama.cpp find its fastest settings for a mix and a prompt; returns them in words."""
        passes = 1 if self.config.quick else 4
        return self.ask(system, "tune", prompt, coefficients=system.coefficients, passes=passes)

    def check(self, system: System, prompt: Prompt, tokens: int) -> Verdict:
        """Compare a system with the reference, on the code path that is timed later."""
        found = self.ask(system, "logprobs", prompt, coefficients=system.coefficients)
        written = self.write(system, prompt, tokens)["tokens"] if tokens else []
        return self.verdict(found, prompt, system.reference_mix, written)

    def verdict(self, found: Sequence[float], prompt: Prompt, mix: Sequence[float], tokens: Sequence[int]) -> Verdict:
        """Compare log-probabilities `(V,)` after a prompt, and the tokens written, with the reference."""
        ends = self.facts["mixer"]["ends"]
        answer = self.workers["torch"].ask("reference", ids=prompt.ids, coefficients=mix, tokens=tokens, ends=ends)
        return compare_with_reference(found, answer["logprobs"], answer["short"], self.config.dtype)

    def check_all(self, systems: Sequence[System], prompt: Prompt, tokens: int) -> dict[str, Verdict]:
        """The verdict on every system, by label."""
        verdicts = {}
        for system in systems:
            verdicts[system.label] = verdict = self.check(system, prompt, tokens)
            if not verdict.right:
                progress_wrong(system, verdict)
        return verdicts

    def llama_cpp_mix(self, coefficients: Sequence[float]) -> list[float]:
        """Give llama.cpp one mix as a single adapter; returns the coefficients that switch it on."""
        path = f"{self._folder.name}/mix.gguf"
        self.workers["mixer"].ask("export_mix", coefficients=coefficients, path=path)
        index = self.workers["llama.cpp"].ask("add_adapter", path=path)
        return [0.0] * index + [1.0]

    def _start_llama_cpp(self) -> None:
        files = self.workers["mixer"].ask("export", folder=f"{self._folder.name}/gguf")
        worker = Worker("llama.cpp", self.config.threads, **files, context=self.context)
        try:
            self.facts["llama.cpp"] = worker.ready()
            self.workers["llama.cpp"] = worker
        except WorkerFailed as error:
            self.missing["llama.cpp"] = str(error)
            worker.close()


def with_harness(
    config: BenchConfig, counts: Sequence[int], measure: Callable[[Harness], dict[str, Any]]
) -> dict[str, Any]:
    """The report of a benchmark that needs a harness, with the facts of the run."""

    def run() -> dict[str, Any]:
        with Harness(config, counts) as harness:
            measured = measure(harness)
            return {"anchors": harness.anchors} | measured | {"missing": harness.missing, "facts": harness.facts}

    return with_facts(config, run)


def with_facts(config: BenchConfig, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A report, with its seconds and the share of the CPU time that other programs used meanwhile."""
    begin, others = time.perf_counter(), OtherPrograms()
    report = {"dtype": config.dtype, "threads": config.threads, "quick": config.quick} | run()
    return report | {"seconds": time.perf_counter() - begin, "others": others.share()}


def footer(report: dict[str, Any]) -> list[str]:
    """What a reader must know about the run."""
    lines = [f"{peer} did not run: {reason}" for peer, reason in report["missing"].items()]
    lines += [f"The run took {report['seconds']:.0f} s.", *other_programs_lines(report["others"])]
    if report["quick"]:
        lines.append("A quick run: these figures are rough.")
    return lines


def progress(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def progress_wrong(system: System, verdict: Verdict) -> None:
    """Say on stderr that a system is wrong."""
    progress(f"{system.label} is wrong (off by {verdict.off:.3g}, {verdict.short:.3g}) and not timed")
