"""A run in steps: each finished one is kept, and a log says what was done, in what time, and how much is left.

Knows no recipe and no model.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixer.errors import BadArtifact
from mixer.measure.card_tables import as_time

KEPT = "kept"


@dataclass(frozen=True)
class Step:
    """One part of a run.

    Attributes:
        run: does it; returns a few words on what came of it, or `KEPT` if there was nothing to do.
        made_from: gives what must be equal for the step not to be run again; asked only when its turn comes, since it
            may depend on the steps before it. None for a step that is always run, and keeps by itself what it can.
        files: that the step writes; if one is missing, the step is run again.
        work: its cost in tokens read, roughly; for the time left.
        seconds: a part of its time that is known beforehand.
    """

    name: str
    run: Callable[[], str]
    made_from: Callable[[], Mapping[str, Any]] | None = None
    files: tuple[Path, ...] = ()
    work: float = 0.0
    seconds: float = 0.0


class Progress:
    """The record of a run's steps, `recipe.json`, and its log, `recipe.log`, in one folder."""

    RECORD, LOG = "recipe.json", "recipe.log"

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Begin or resume a run.

        Args:
            facts: entries of the record besides the steps.

        Raises:
            BadArtifact: the record of an earlier run is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.facts = folder, dict(facts)
        self.steps: dict[str, dict[str, Any]] = read_record(folder).get("steps", {})
        self._write()

    def say(self, line: str) -> None:
        """One line with the time of day, to stderr and into the log."""
        line = f"{time.strftime('%H:%M:%S')} {line}"
        print(line, file=sys.stderr, flush=True)
        with (self.folder / self.LOG).open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def run(self, steps: Sequence[Step], begun: float | None = None) -> dict[str, dict[str, Any]]:
        """Run those steps that are not finished, in order; returns each one's record.

        Args:
            begun: `time.perf_counter()` when the whole run began, for its time in the log; now if None.
        """
        begun = time.perf_counter() if begun is None else begun
        work, spent, made = 0.0, 0.0, {}
        for number, step in enumerate(steps, start=1):
            title = f"[{number}/{len(steps)}] {step.name}"
            key = digest(step.made_from()) if step.made_from else ""
            known = self.steps.get(step.name, {})
            if key and known.get("key") == key and all(path.is_file() for path in step.files):
                self.say(f"{title}: kept; {known['said']}")
                made[step.name] = known
                continue
            self.say(f"{title}: begins")
            start = time.perf_counter()
            said = step.run()
            seconds = time.perf_counter() - start
            if said == KEPT:
                self.say(f"{title}: kept")
                made[step.name] = known or {"key": key, "seconds": 0.0, "said": KEPT}
                continue
            if seconds > step.seconds:
                work, spent = work + step.work, spent + seconds - step.seconds
            made[step.name] = {"key": key, "seconds": round(seconds, 1), "said": said}
            self.steps[step.name] = made[step.name]
            self._write()
            left = time_left(steps[number:], work, spent)
            in_all = as_time(time.perf_counter() - begun)
            self.say(f"{title}: {said}; {as_time(seconds)}, in all {in_all}; {left}")
        return made

    def _write(self) -> None:
        record = self.facts | {"steps": self.steps}
        path = self.folder / self.RECORD
        path.with_suffix(".new").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        path.with_suffix(".new").replace(path)


@dataclass
class Held:
    """At most one large thing in memory: what a stage of a run shares, such as a loaded base."""

    things: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The thing of this name, made now if another one is held, which is let go first."""
        if name not in self.things:
            self.let_go()
            self.things[name] = make()
        return self.things[name]

    def let_go(self) -> None:
        """Hold nothing: what is asked for next is made anew."""
        self.things.clear()


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run in a folder; empty if there is none.

    Raises:
        BadArtifact: it is damaged.
    """
    path = folder / Progress.RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(step["said"], str) for step in record.get("steps", {}).values()):
            raise ValueError("a step has no result")
        return record
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{path} is no record of a run: {error}.", "Remove it: what is finished is found.") from error


def digest(record: Mapping[str, Any]) -> str:
    """16 hex digits of a JSON object."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=list).encode()).hexdigest()[:16]


def digest_files(paths: Sequence[Path]) -> str:
    """16 hex digits of the bytes of these files, in this order."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def time_left(steps: Sequence[Step], work: float, spent: float) -> str:
    """The time that these steps will take, in words, where `work` of others took `spent` seconds."""
    if not steps:
        return "nothing is left"
    left = sum(step.work for step in steps)
    if left and not work:
        return "time left unknown as yet"
    return f"about {as_time(sum(step.seconds for step in steps) + (left * spent / work if left else 0))} left"
