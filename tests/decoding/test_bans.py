"""Banned words: they are found anywhere, taken back to their first token, and not drawn there again."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from mixer import Desk, SamplingParams, Session, Step
from mixer.decoding.text import Bans
from tests.decoding.conftest import PROMPTS, params, renew, same, trace

FREE = SamplingParams(max_new_tokens=40, seed=3, temperature=1.5, top_p=1.0)


def ban(*words: str) -> str:
    return "sliders + ban(" + ", ".join(f'"{word}"' for word in words) + ")"


def follow(session: Session) -> list[Step]:
    """All steps of a session. At every step, text and tokens as a reader adds them up must be the session's own."""
    text, tokens, steps = "", [], []
    for step in session:
        if step.rewind:
            text = text[: -step.rewind]
        text += step.text
        tokens = tokens[: step.index] if step.dropped else [*tokens, step.token_id]
        assert (text, tokens) == (session.text, session.token_ids)
        steps.append(step)
    return steps


def words_of(desk: Desk) -> list[str]:
    """Single letters that stand as words of their own in a text of this random model."""
    text = desk.generate(PROMPTS[0], None, FREE).text
    found = [c for i, c in enumerate(text) if c.isalnum() and not text[i - 1 : i].isalnum() and i + 1 < len(text)]
    return [c for c in found if not text[text.index(c) + 1].isalnum()]


def test_a_text_that_holds_no_banned_word_is_left_alone(desk: Desk):
    free = desk.generate(PROMPTS[0], None, FREE)
    held = desk.session(PROMPTS[0], None, FREE, formula=ban("a word that never comes"))
    assert all(not step.dropped for step in follow(held)) and held.token_ids == list(free.token_ids)


@pytest.mark.parametrize("draft", ["off", "ngram", "base"])
def test_a_banned_word_is_taken_back_and_the_text_goes_on(desk: Desk, draft: str):
    words = words_of(desk)
    assert words, "the free text has a word that can be banned"
    session = desk.session(PROMPTS[0], None, FREE, formula=ban(words[0]), draft=draft)  # type: ignore[arg-type]
    steps = follow(session)
    assert any(step.dropped for step in steps) and len(session.token_ids) == 40
    banned = words[0].lower()
    assert banned not in Counter("".join(c if c.isalnum() else " " for c in session.text.lower()).split())


def test_up_to_the_word_the_text_is_the_free_one_and_then_the_next_best(desk: Desk):
    """At temperature 0, the second likeliest token takes the place of the banned word's first token."""
    greedy = params(30, temperature=0.0)
    free = desk.generate(PROMPTS[2], None, greedy)
    session = desk.session(PROMPTS[2], None, greedy)
    session.state.bans = _Anything(free.text[5:7])  # any piece of the text, whole word or not
    follow(session)
    same = next(i for i, (a, b) in enumerate(zip(free.token_ids, session.token_ids, strict=False)) if a != b)
    logits = desk.model.logits([*session.prompt_ids, *session.token_ids[:same]], (0.0,) * len(desk.anchors))
    assert logits.topk(2).indices.tolist() == [free.token_ids[same], session.token_ids[same]]
    assert free.text[5:7] not in session.text


class _Anything(Bans):
    """Finds a piece of text, whole word or not."""

    def __init__(self, piece: str) -> None:
        super().__init__([])
        self.piece = piece

    def find(self, text: str, ended: bool) -> int | None:
        return at if (at := text.find(self.piece)) >= 0 else None


def test_a_word_at_the_very_end_counts(desk: Desk):
    text = desk.generate(PROMPTS[0], None, FREE).text
    place = next(i for i, c in enumerate(text) if c.isalnum() and not text[i - 1 : i].isalnum())
    short = SamplingParams(
        max_new_tokens=len(text[: place + 1].encode()), seed=3, temperature=1.5, top_p=1.0
    )  # one token a byte
    free = desk.generate(PROMPTS[0], None, short)
    assert free.text.endswith(text[place])
    session = desk.session(PROMPTS[0], None, short, formula=ban(text[place]))
    steps = follow(session)
    assert steps[-1].dropped == 0 and session.finish_reason == "length"
    assert not session.text.endswith(text[place]) or session.text[-2:-1].isalnum()


def test_where_every_way_on_is_banned_the_text_ends_and_says_so(desk: Desk):
    session = desk.session(PROMPTS[0], None, FREE)
    session.state.bans = _Anything("")  # every text contains it
    steps = follow(session)
    assert session.finish_reason == "ban" and session.text == "" and steps[-1].dropped


def test_where_the_formula_leaves_no_other_token_the_text_ends_too(desk: Desk):
    formula, greedy = "top(base, k=1)", params(30, temperature=0.0)
    free = desk.generate(PROMPTS[2], None, greedy, formula).text
    session = desk.session(PROMPTS[2], None, greedy, formula=formula)
    session.state.bans = _Anything(free[5:7])
    follow(session)
    assert session.finish_reason == "ban" and free.startswith(session.text) and free[5:7] not in session.text


def test_neighbors_do_not_notice(desk: Desk):
    alone = desk.generate(PROMPTS[1], desk.mix(humor=1), params(30)).token_ids
    other = desk.session(PROMPTS[1], desk.mix(humor=1), params(30))
    session = desk.session(PROMPTS[0], None, FREE, formula=ban(*words_of(desk)))
    for _ in desk.lockstep(session, other):
        pass
    assert other.token_ids == list(alone)


class _Once(Bans):
    """Bans whatever the first token writes, once."""

    def __init__(self) -> None:
        super().__init__([])
        self.done = False

    def find(self, text: str, ended: bool) -> int | None:
        found, self.done = (None if self.done or not text else 0), self.done or bool(text)
        return found


@pytest.mark.parametrize("way", ["keep", "refill"])
def test_a_move_after_the_whole_text_was_taken_back_counts_as_a_move(desk: Desk, way: str):
    prompt, mix = "The harbor lay still, and no one had come down.", desk.mix(humor=2)
    session = desk.session(prompt, None, FREE, way)  # type: ignore[arg-type]
    session.state.bans = _Once()
    steps = []
    for step in session:
        steps.append(step)
        if step.dropped and not session.token_ids:
            session.mix = mix
    assert steps[0].dropped and steps[1].exact is (way == "refill")
    if way == "refill":
        logits = desk.model.logits(session.prompt_ids, mix.coefficients(desk.anchors)).clone()
        logits[steps[0].token_id] = -torch.inf  # what the ban bars
        expected = float(logits[steps[1].token_id] - logits.logsumexp(0))
        assert abs(steps[1].logprob - expected) < 1e-4
    # What is kept of the prompt for later texts was computed under their mix too.
    kept = trace(desk.session(prompt, mix, FREE))
    renew(desk)
    assert same(desk, kept, trace(desk.session(prompt, mix, FREE)))


def test_a_text_that_is_closed_while_a_word_is_taken_back_stays_closed(desk: Desk):
    session = desk.session(PROMPTS[0], None, FREE)

    class Closing(_Once):
        def find(self, text: str, ended: bool) -> int | None:
            session.close()
            return super().find(text, ended)

    session.state.bans = Closing()
    assert len(follow(session)) == 1 and session.finish_reason == "closed"
