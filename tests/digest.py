"""Prints one digest of what the desk computes: texts, log-probabilities and scores. Equal before and after a change
that is meant to move code and not numbers.

    python -m tests.digest            # the digest alone
    python -m tests.digest --parts    # and one of each part, to see which of them changed

It uses public names alone, so that it runs on any commit. Compare digests of one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from mixer import Desk, Request, SamplingParams, Steering

PROMPT = "The customer said,"
PARAMS = SamplingParams(max_new_tokens=48, temperature=0.8, top_p=0.95, seed=7)
FORMULAS = (
    "base - 0.96*union(base, [rude])",
    '1.5*sliders - 0.5*[sliders] @ only("")',
    "sliders + 2*judge(polite, k=20)",
    "sliders + reward(positive)",
)


def digest(parts: Iterable[object]) -> str:
    """A digest of printed values, the same on every run."""
    return hashlib.blake2b("\n".join(map(repr, parts)).encode(), digest_size=8).hexdigest()


def texts(desk: Desk) -> dict[str, str]:
    """Digests of everything that the desk writes and measures, by part."""
    mix = desk.mix(formality=0.7, sentiment=-0.4, poetry=0.2)
    steering = Steering({"sentiment": 0.8}, {"toxicity": 0.1}, budget=0.5)
    found = {
        "mix": digest((out := desk.generate(PROMPT, mix, PARAMS)).token_ids),
        "rewards": digest(desk.generate(PROMPT, mix, PARAMS, steering=steering).token_ids),
        "scores": digest(sorted(desk.scores(out.text).items())),
    }
    for formula in FORMULAS:
        found[formula] = digest(desk.generate(PROMPT, mix, PARAMS, formula).token_ids)
        found[f"logprobs {formula}"] = digest([desk.logprobs(PROMPT, mix, formula).numpy().tobytes()])
    found["logprobs"] = digest([desk.logprobs(PROMPT, mix).numpy().tobytes()])
    found["logprobs, rewards"] = digest([desk.logprobs(PROMPT, mix, steering=steering).numpy().tobytes()])
    requests = [
        Request(PROMPT, desk.mix(humor=1), PARAMS),
        Request("Once upon a time", desk.mix(poetry=-1), PARAMS, "base + 2*([polite] - [rude])"),
        Request("The last train", mix, PARAMS, None, steering),
    ]
    found["batch"] = digest(out.token_ids for out in desk.generate_batch(requests))
    session = desk.session(PROMPT, mix, PARAMS, on_mix_change="refill", draft="ngram")
    for step in session:
        if step.index == 12:
            session.mix = desk.mix(formality=-1)
    found["moved"] = digest([session.text, session.token_ids])
    return found


def main() -> None:
    """Load the shipped desk, print the digest."""
    reader = argparse.ArgumentParser(description="Prints one digest of what the desk computes.")
    reader.add_argument("--parts", action="store_true", help="a line for every part too")
    options = reader.parse_args()
    found = texts(Desk.load("tiny", auto_fold=False))
    if options.parts:
        for name, value in found.items():
            print(f"{value}  {name}")
    print(digest(sorted(found.items())))


if __name__ == "__main__":
    main()
