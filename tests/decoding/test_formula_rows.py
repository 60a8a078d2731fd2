"""Texts written by formulas: each branch has a row, tokens come from the exact distribution, and sliders act only on
the branches that follow them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer import Desk, MixerError, SamplingParams, Session, Step
from mixer.decoding.evaluate import evaluate
from mixer.errors import InvalidValue
from tests.decoding.conftest import PROMPTS, Spy, params, renew, same, trace
from tests.factory import VOCAB, make_base

FORMULAS = [
    "base",
    "[0.7*formality - 0.4*humor]",
    "1.5*sliders - 0.5*base",
    'sliders - 0.6*[base] @ "A rude remark:"',
    '2*sliders - 0.96*union(sliders, [humor.negative]) + 0.3*[sliders + 0.5*humor] @ only("Once")',
    "a = [formality.positive]; norm(a + base) + 0.5*(a - base) + 0.1*uniform",
]


@pytest.fixture(scope="module", autouse=True)
def other_model(loaded: Desk, tmp_path_factory: pytest.TempPathFactory) -> None:
    loaded.add_model("other", make_base(tmp_path_factory.mktemp("other"), "qwen", seed=9))


def uncached(session: Session) -> torch.Tensor:
    """The distribution of a session's last token, from one uncached pass for each term over all tokens before it."""
    before, logprobs = session.token_ids[:-1], {}
    for branch_prompt in session.prompted.branch_prompts:
        logits = branch_prompt.model.logits([*branch_prompt.prompt_ids, *before], branch_prompt.under(session.mix)[1])[
            :VOCAB
        ]
        logprobs[branch_prompt.branch] = torch.log_softmax(logits, dim=-1)
    return evaluate(session.prompted.bound, logprobs)


@pytest.mark.parametrize("formula", [*FORMULAS, "base + 0.5*[base, model=other]"])
def test_every_step_is_drawn_from_the_formula_s_own_distribution(desk: Desk, formula: str):
    """A cached text, beside others, in pieces, while sliders move, agrees with one uncached pass for each term."""
    mixes = [desk.mix(formality=1), desk.mix(humor=-1.5)]
    session = desk.session(PROMPTS[0], mixes[0], params(10), "refill", formula=formula)
    other = desk.session(PROMPTS[2], mixes[1], params(12), formula=FORMULAS[2])
    for step, _ in desk.lockstep(session, other):
        if step is None:
            break
        assert step.logprob == pytest.approx(float(uncached(session)[step.token_id]), abs=2e-4), step.index
        session.mix = mixes[step.index % 2]


def test_equal_terms_share_a_row(desk: Desk, spy: Spy):
    formula = 'sliders + [sliders] - 0.5*base + 0.2*[base] @ "x" + 0.1*[0.0*humor] + 0.1*[base] @ only("x")'
    session = desk.session(PROMPTS[0], None, params(4), formula=formula)
    assert len(session.prompted.branch_prompts) == 4 and len(list(session)) == 4
    assert [list(call.values()) for call in spy.calls[-3:]] == [[1] * 4] * 3, "one token a row and pass"


def test_a_move_acts_on_the_terms_that_follow_the_sliders_and_on_no_other(desk: Desk):
    """Rows that do not follow the sliders keep their gate and their KV cache; the others change at the next token."""
    formula = "sliders + 0.5*[0.5*sliders + humor] - 0.3*[formality] + 0.2*base"
    session = desk.session(PROMPTS[0], desk.mix(formality=0.4), params(8), "refill", formula=formula)
    gate = desk.model.backend.gate
    for step in session:
        rows = [row.index for row in desk.scheduler.in_flight[0].rows]
        held = [dict(zip(desk.anchors, gate[row] or (), strict=True)) for row in rows]
        position = 0.4 if step.index < 4 else -0.8
        pole = "positive" if position > 0 else "negative"
        assert held[0] == dict.fromkeys(desk.anchors, 0.0) | {f"formality.{pole}": abs(position)}
        assert held[1][f"formality.{pole}"] == pytest.approx(abs(position) / 2) and held[1]["humor.positive"] == 1
        assert held[2] == dict.fromkeys(desk.anchors, 0.0) | {"formality.positive": 1.0}
        assert not any(held[3].values())
        if step.index == 3:
            session.mix = desk.mix(formality=-0.8)


def test_a_formula_that_does_not_follow_the_sliders_ignores_them(desk: Desk):
    formula = "base + 0.5*[humor]"
    still = trace(desk.session(PROMPTS[0], None, params(), formula=formula))
    session, moved = desk.session(PROMPTS[0], desk.mix(formality=1), params(), formula=formula), []
    for step in session:
        session.mix = desk.mix(formality=step.index / 10)
        moved.append(step)
    key = desk.mix().key
    assert same(desk, [(s.token_id, s.logprob.hex(), key, s.exact) for s in moved], still)
    assert session.stats.exact


def test_texts_with_formulas_are_the_same_alone_and_among_others(desk: Desk):
    alone = [desk.generate(PROMPTS[i % 4], desk.mix(humor=i / 4), params(), f).text for i, f in enumerate(FORMULAS)]
    sessions = [
        desk.session(PROMPTS[i % 4], desk.mix(humor=i / 4), params(), formula=f) for i, f in enumerate(FORMULAS)
    ]
    for _ in desk.lockstep(*sessions):
        pass
    assert [session.text for session in sessions] == alone


def test_a_formula_takes_as_many_rows_as_it_has_branches_and_gives_them_back(desk: Desk):
    renew(desk, most_rows=4)
    formula = "sliders + base + [humor]"
    session, waiting = (
        desk.session(PROMPTS[0], desk.mix(formality=1), params(4), formula=formula),
        iter(desk.session(PROMPTS[0], None, params(2), formula="base + [humor]")),
    )
    stream = iter(session)
    next(stream)
    assert desk.scheduler.rows_in_use == 3
    assert len(list(stream)) == 3
    assert len(list(waiting)) == 2
    with pytest.raises(InvalidValue, match="take 6 rows"):
        list(desk.lockstep(session, desk.session(PROMPTS[0], None, params(), formula=formula)))


def test_an_error_while_writing_reaches_its_own_reader_alone(desk: Desk):
    """Two copies of a term may cancel in a union, and only the evaluation shows it."""
    good = desk.session(PROMPTS[0], None, params(6))
    bad = desk.session(PROMPTS[0], None, params(6), formula="base - intersect(base, 2*[humor]) + 0.5*[humor]")
    steps: list[Step] = []
    with pytest.raises(MixerError, match=r"column 1.*add up to"):
        for step, _ in desk.lockstep(good, bad):
            assert step
            steps.append(step)
    assert len(list(desk.session(PROMPTS[0], None, params(6)))) == 6


def test_a_long_prompt_of_one_branch_is_read_in_pieces(desk: Desk, spy: Spy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk.model.backend, "chunk", 8)
    formula = 'base + 0.5*[humor] @ "' + "k" * 50 + '"'
    whole = trace(desk.session("Hi", None, params(6), formula=formula))
    assert max(sum(call.values()) for call in spy.calls) <= 10 and len(whole) == 6
    monkeypatch.undo()
    renew(desk)
    assert [note[0] for note in trace(desk.session("Hi", None, params(6), formula=formula))] == [n[0] for n in whole]


def test_a_branch_s_prompt_counts_against_the_context(desk: Desk):
    formula = 'base + 0.1*[base] @ "' + "k" * 80 + '"'
    out = desk.generate("Hi", None, SamplingParams(max_new_tokens=1000, seed=1, min_new_tokens=1000), formula)
    assert out.finish_reason == "context" and len(out.token_ids) == desk.context - 1 - 80 - 1 - 2
    with pytest.raises(InvalidValue, match="tokens"):
        desk.session("x" * 100, None, params(), formula=formula)


def test_another_model_needs_the_same_tokenizer(desk: Desk, tmp_path: Path):
    with pytest.raises(InvalidValue, match="taken"):
        desk.add_model("other", tmp_path)
    with pytest.raises(MixerError, match=r"model called 'third'.*other"):
        desk.session("Hi", formula="[base, model=third]")
