"""Tokens a second of formulas at batch 1: all terms in one forward pass, beside a pass for every term, and speculation.

Every term is another mix of a third of the anchors, and a formula is the sum of its terms. Before anything is timed,
its log-probabilities are compared with the mean of the reference's, and every method must write the same text, since
guesses are drawn with the text's own noise. Texts are drawn at the default temperature; prompts are openings of stories
that no anchor saw, without the repetitions that would help guesses.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bench.harness.checks import Verdict, compare_with_reference
from bench.harness.config import BenchConfig, coefficients
from bench.harness.harness import Harness, Prompt, footer, progress, with_harness
from bench.harness.tables import markdown, ratio, shown
from mixer.measure.control import held_out_prompts
from mixer.values.mix import POLES

TERMS, CONTEXTS, TOKENS, ROUNDS = (1, 2, 4, 8), (64, 376), 128, 9
QUICK_TERMS, QUICK_CONTEXTS, QUICK_TOKENS, QUICK_ROUNDS = TERMS, CONTEXTS[:1], 32, 2
ONE, EACH, NGRAM, BASE, FIRST = "one pass", "a pass a term", "n-gram guesses", "base guesses", "first term guesses"
MOST = 2.0  # times a single term that four may cost


@dataclass(frozen=True)
class FormulaMethod:
    """One method of writing by a sum of so many terms."""

    terms: int
    label: str
    formula: str
    options: dict[str, Any]


def bench_formula(config: BenchConfig) -> dict[str, Any]:
    """The report: a section a context, with a row for each method and number of terms."""
    full = TERMS, CONTEXTS, TOKENS, ROUNDS
    quick = QUICK_TERMS, QUICK_CONTEXTS, QUICK_TOKENS, QUICK_ROUNDS
    terms, contexts, tokens, rounds = quick if config.quick else full

    def run(harness: Harness) -> dict[str, Any]:
        sections = []
        for context in sorted({min(context, harness.context - tokens) for context in contexts}):
            progress(f"formula: context {context}, {rounds} rounds of {tokens} tokens")
            sections.append(section(harness, terms, context, tokens, rounds))
        return {"tokens": tokens, "rounds": rounds, "live": max(1, harness.anchors // 3), "sections": sections}

    return with_harness(replace(config, peers=()), (), run)


def mixes_of(harness: Harness, terms: int) -> list[list[float]]:
    """The terms' mixes, short enough to be read in a formula."""
    live = max(1, harness.anchors // 3)
    own = [coefficients(harness.anchors, live, harness.config.seed + term) for term in range(terms)]
    return [[round(value, 3) for value in mix] for mix in own]


def written(mix: list[float]) -> str:
    """A mix in brackets."""
    names = [f"slider{index // 2:02}.{POLES[index % 2]}" for index in range(len(mix))]
    parts = [f"{value:+.3f}*{name}" for value, name in zip(mix, names, strict=True) if value]
    return f"[{' '.join(parts).removeprefix('+')}]"


def methods_of(mixes: list[list[float]]) -> list[FormulaMethod]:
    """Every method of writing by these terms."""
    terms = [written(mix) for mix in mixes]
    formula, count = " + ".join(terms), len(mixes)
    methods = [
        FormulaMethod(count, ONE, formula, {"draft": "off"}),
        FormulaMethod(count, EACH, formula, {"draft": "off", "by_term": True}),
        FormulaMethod(count, NGRAM, formula, {"draft": "ngram"}),
        FormulaMethod(count, BASE, formula, {"draft": "base"}),
    ]
    if count > 1:
        methods.append(FormulaMethod(count, FIRST, f"supersede({terms[0]}, {formula})", {"draft": "auto"}))
    return methods


def prompt_of(harness: Harness, tokens: int, new: int, turn: int = 0) -> Prompt:
    """A prompt of at most so many tokens, and with room for the new ones; see `opening_of`."""
    return opening_of(harness.tokenizer, min(tokens, harness.context - new), turn)


def opening_of(tokenizer: Tokenizer, tokens: int, turn: int = 0) -> Prompt:
    """At most so many tokens of story openings one after another; each turn's begins with another."""
    openings, ids = held_out_prompts(), []
    text = ""
    for opening in (*openings[turn % len(openings) :], *openings[: turn % len(openings)]):
        for word in opening.split():
            longer = f"{text} {word}".lstrip()
            found = tokenizer.encode(longer).ids
            if len(found) > tokens:
                return Prompt(text, ids)
            text, ids = longer, found
    return Prompt(text, ids)


def write(harness: Harness, method: FormulaMethod, prompt: Prompt, tokens: int, turn: int) -> dict[str, Any]:
    """One text."""
    asked = {
        "anchors": harness.anchors,
        "formula": method.formula,
        "tokens": tokens,
        "seed": harness.config.seed + turn,
    }
    return harness.workers["mixer"].ask("write_formula", prompt=prompt.text, **asked, **method.options)


def gate(
    harness: Harness, mixes: list[list[float]], methods: list[FormulaMethod], prompt: Prompt, tokens: int
) -> list[str]:
    """What is wrong with these methods; nothing may be."""
    wrong = []
    worker, reference = harness.workers["mixer"], harness.workers["torch"]
    of_terms = [reference.ask("judge", ids=prompt.ids, coefficients=m, tokens=[], ends=[])["logprobs"] for m in mixes]
    mean = np.mean(of_terms, axis=0)
    mean = mean - np.logaddexp.reduce(mean)
    for by_term in (False, True):
        asked = {"prompt": prompt.text, "anchors": harness.anchors, "formula": methods[0].formula, "by_term": by_term}
        verdict: Verdict = compare_with_reference(
            worker.ask("formula_logprobs", **asked), mean, [], harness.config.dtype
        )
        if not verdict.right:
            wrong.append(f"{EACH if by_term else ONE}, {len(mixes)} terms: off by {verdict.off:.3g} nats")
    texts = {method.label: write(harness, method, prompt, tokens, 0)["tokens"] for method in methods}
    wrong += [
        f"{label}, {len(mixes)} terms: another text than in {ONE}" for label in texts if texts[label] != texts[ONE]
    ]
    return wrong


def section(harness: Harness, terms: tuple[int, ...], context: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Gates, then rounds in which every method writes the same text once, the order turned by one each time."""
    mixes = {count: mixes_of(harness, count) for count in terms}
    methods, wrong = [], []
    for count in terms:
        own = methods_of(mixes[count])
        methods += own
        wrong += gate(harness, mixes[count], own, prompt_of(harness, context, tokens), tokens)
    for line in wrong:
        progress(f"wrong: {line}")
    if wrong:
        return {"context": context, "wrong": wrong}
    taken: dict[tuple[int, str], list[dict[str, Any]]] = {(method.terms, method.label): [] for method in methods}
    for turn in range(rounds + 1):
        prompt = prompt_of(harness, context, tokens, turn + 1)
        for place in range(len(methods)):
            method = methods[(place + turn) % len(methods)]
            text = write(harness, method, prompt, tokens, turn)
            if not turn:  # the first round warms up
                continue
            if method.label == BASE:
                asked = {"draft": "base", "tokens": text["tokens"], "seed": harness.config.seed + turn}
                text |= harness.workers["mixer"].ask(
                    "acceptance", prompt=prompt.text, anchors=harness.anchors, formula=method.formula, **asked
                )
            taken[method.terms, method.label].append(text | {"typical": statistics.mean(text["steps"])})
    rows = [row_of(method, taken[method.terms, method.label]) for method in methods]
    typical = {key: [text["typical"] for text in texts] for key, texts in taken.items()}
    costs = {
        label: {str(count): ratio(typical[count, label], typical[terms[0], label]) for count in terms[1:]}
        for label in (ONE, EACH)
    }
    ratios = {f"{ONE} / {EACH}, {count} terms": ratio(typical[count, EACH], typical[count, ONE]) for count in terms}
    return {"context": context, "wrong": wrong, "rows": rows, "costs": costs, "ratios": ratios}


def row_of(method: FormulaMethod, texts: list[dict[str, Any]]) -> dict[str, Any]:
    """A method's figures: the median time over rounds, and shares over all of them."""
    seconds = statistics.median(text["typical"] for text in texts)
    row: dict[str, Any] = {
        "terms": method.terms,
        "method": method.label,
        "tokens_per_second": 1 / seconds,
        "ms": 1e3 * seconds,
    }
    for share in ("acceptance", "coupled", "best"):
        if known := [text[share] for text in texts if text.get(share) is not None]:
            row[share] = statistics.mean(known)
    if "acceptance" in row:  # a pass yields the guesses that held, and one more token
        passes = sum(len(text["tokens"]) - text["guessed"] for text in texts)
        row["tokens_a_pass"] = sum(len(text["tokens"]) for text in texts) / passes
    return row


def table(report: dict[str, Any]) -> str:
    """The report as markdown."""
    lines = [
        f"{report['anchors']} anchors, {report['live']} live in each term, {report['dtype']}, "
        f"{report['threads']} threads, {report['tokens']} tokens, {report['rounds']} rounds"
    ]
    for part in report["sections"]:
        if part["wrong"]:
            lines += ["", f"context {part['context']}: not timed", *(f"- {line}" for line in part["wrong"])]
            continue
        head = [f"context {part['context']}", "terms", "tokens/s", "ms a token", "guesses held", "tokens a pass"]
        head += ["one guess holds: expected", "at best"]
        rows = []
        for row in part["rows"]:
            shares = [_share(row.get(key)) for key in ("acceptance", "coupled", "best")]
            passed = row.get("tokens_a_pass", "")
            rows.append(
                [row["method"], row["terms"], row["tokens_per_second"], row["ms"], shares[0], passed, *shares[1:]]
            )
        lines += ["", markdown(head, rows), "", markdown(["times as fast", ""], list(part["ratios"].items())), ""]
        for label, costs in part["costs"].items():
            shown_costs = ", ".join(f"{count}: {shown(cost)}" for count, cost in costs.items())
            lines.append(f"Terms, and what they cost as a multiple of one, {label}: {shown_costs}.")
        if part["costs"][ONE].get("4", 0.0) > MOST:
            lines.append("Four terms cost too much.")
    return "\n".join([*lines, "", *footer(report)])


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
