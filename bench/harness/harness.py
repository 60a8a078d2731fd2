"""The harness that all benchmarks stand on: workers, prompts, files for peers, and the gate before any timing.

One worker process a runtime. Only one works at a time; see `worker` for why.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.harness.checks import Verdict, judge
from bench.harness.config import BenchConfig, adapters_in, lay_out, prompt_of
from bench.harness.processes import busy
from bench.harness.worker import Worker, WorkerFailed
from mixer.errors import InvalidValue

QUIET = 0.05  # share of the processors that other programs may take


@dataclass(frozen=True)
class Prompt:
    """A prompt as our API and as the peers take it."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class System:
    """One way of running a mix, a row of a table.

    Attributes:
        host: the worker that has it.
        coefficients: what that worker is given.
        options: what else, such as PEFT's `way`.
        mix: the coefficients that it should amount to, where they are not the same.
    """

    label: str
    host: str
    coefficients: list[float]
    options: dict[str, Any] = field(default_factory=dict)
    mix: list[float] = field(default_factory=list)

    @property
    def meant(self) -> list[float]:
        """The coefficients that the reference runs with."""
        return self.mix or self.coefficients


class Harness:
    """Workers for one config; use it as a context.

    Args:
        counts: numbers of anchors that will be asked for, even; the shipped number (rounded down to even) is added.
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
                self.adapters = lay_out(self._shipped, int(count), Path(folder))
            folders = [str(folder) for folder in self.adapters]
            for kind, own in (("mixer", {"layouts": layouts}), ("torch", {"adapters": folders})):
                self.workers[kind] = Worker(kind, config.threads, base=base, dtype=config.dtype, **own)
            self.facts = {kind: worker.ready() for kind, worker in self.workers.items()}
            if "llama.cpp" in config.peers:
                self._start_llama()
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
        """Most tokens a text can have."""
        return int(self.facts["mixer"]["context"])

    def has(self, host: str) -> bool:
        """Whether a peer takes part."""
        return host in self.config.peers and host not in self.missing

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The base's tokenizer."""
        return Tokenizer.from_file(str(self.config.base / "tokenizer.json"))

    def prompt(self, tokens: int, new: int, turn: int = 0) -> Prompt:
        """A prompt of about so many tokens, fewer where `new` ones would not fit after it; another one each turn."""
        tokens = min(tokens, self.context - new)
        if tokens < 4:
            raise InvalidValue(f"{new} new tokens do not fit this model's context of {self.context}.", "Ask for fewer.")
        text = prompt_of(self.tokenizer, tokens, turn)
        return Prompt(text, self.tokenizer.encode(text).ids)

    def ask(self, system: System, question: str, prompt: Prompt, **values: Any) -> Any:
        """Put a question about a prompt to the system's worker."""
        given = {"prompt": prompt.text} if system.host == "mixer" else {"ids": prompt.ids}
        return self.workers[system.host].ask(question, **given, **system.options, **values)

    def write(self, system: System, prompt: Prompt, tokens: int) -> dict[str, Any]:
        """One text of this many tokens."""
        return self.ask(system, "write", prompt, coefficients=system.coefficients, tokens=tokens)

    def tune(self, system: System, prompt: Prompt) -> str:
        """Let llama.cpp find its best settings for a mix and a prompt; what they are."""
        return self.ask(system, "tune", prompt, coefficients=system.coefficients, passes=1 if self.config.quick else 4)

    def gate(self, system: System, prompt: Prompt, tokens: int) -> Verdict:
        """Hold a system against the reference, on the path that will be timed."""
        found = self.ask(system, "logprobs", prompt, coefficients=system.coefficients)
        written = self.write(system, prompt, tokens)["tokens"] if tokens else []
        return self.verdict(found, prompt, system.meant, written)

    def verdict(self, found: Sequence[float], prompt: Prompt, mix: Sequence[float], tokens: Sequence[int]) -> Verdict:
        """Hold answers against the reference."""
        ends = self.facts["mixer"]["ends"]
        answer = self.workers["torch"].ask("judge", ids=prompt.ids, coefficients=mix, tokens=tokens, ends=ends)
        return judge(found, answer["logprobs"], answer["short"], self.config.dtype)

    def check_all(self, systems: Sequence[System], prompt: Prompt, tokens: int) -> dict[str, Verdict]:
        """The verdict on every system, by label."""
        verdicts = {}
        for system in systems:
            verdicts[system.label] = verdict = self.gate(system, prompt, tokens)
            if not verdict.right:
                progress(f"{system.label} is wrong (off by {verdict.off:.3g}, {verdict.short:.3g}) and not timed")
        return verdicts

    def llama_mix(self, coefficients: Sequence[float]) -> list[float]:
        """Give llama.cpp one mix as a single adapter; the coefficients that make it live."""
        path = f"{self._folder.name}/mix.gguf"
        self.workers["mixer"].ask("export_mix", coefficients=coefficients, path=path)
        place = self.workers["llama.cpp"].ask("add_adapter", path=path)
        return [0.0] * place + [1.0]

    def _start_llama(self) -> None:
        files = self.workers["mixer"].ask("export", folder=f"{self._folder.name}/gguf")
        worker = Worker("llama.cpp", self.config.threads, **files, context=self.context)
        try:
            self.facts["llama.cpp"] = worker.ready()
            self.workers["llama.cpp"] = worker
        except WorkerFailed as error:
            self.missing["llama.cpp"] = str(error)
            worker.close()


def with_harness(
    config: BenchConfig, counts: Sequence[int], bench: Callable[[Harness], dict[str, Any]]
) -> dict[str, Any]:
    """A benchmark's report, with what all of them say of the run."""

    def run() -> dict[str, Any]:
        with Harness(config, counts) as harness:
            return {"anchors": harness.anchors} | bench(harness) | {"missing": harness.missing, "facts": harness.facts}

    return watched(config, run)


def watched(config: BenchConfig, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A report, with how long it took, and what share of the processors other programs had meanwhile."""
    begin, worked, own = time.perf_counter(), busy(), _own()
    report = {"dtype": config.dtype, "threads": config.threads, "quick": config.quick} | run()
    seconds = time.perf_counter() - begin
    others = (busy() - worked - (_own() - own)) / seconds / (os.cpu_count() or 1)
    return report | {"seconds": seconds, "others": max(others, 0.0)}


def footer(report: dict[str, Any]) -> list[str]:
    """What a reader must know of the run."""
    lines = [f"{peer} did not run: {reason}" for peer, reason in report["missing"].items()]
    lines.append(f"{report['seconds']:.0f} s; other programs took {100 * report['others']:.0f} % of the processors.")
    if report["others"] > QUIET:
        lines.append("That is too much: run it again on an idle machine.")
    if report["quick"]:
        lines.append("A quick run: these figures are rough.")
    return lines


def _own() -> float:
    """Seconds that this process and its ended children have worked."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def progress(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)
