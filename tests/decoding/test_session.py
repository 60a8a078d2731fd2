"""Sessions: a seed gives the same text again, mixes move within a text, texts of one batch are independent."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixer import Desk, Mix, MixerError, Request, SamplingParams, Setting
from mixer.decoding.text import TextStream
from mixer.errors import InvalidValue, UnknownName
from tests.factory import byte_tokenizer, make_desk_folders

PROMPT = "Nurse Abeni unfolded"


@pytest.fixture(scope="module", params=["native", "torch"])
def desk(tiny: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk.load(tiny / "base", tiny / "anchors", device="cpu", native=request.param == "native")


def uncached(desk: Desk, ids: list[int], mix: Mix) -> torch.Tensor:
    """Log-probabilities of the token after `ids`, from one forward pass over all of them."""
    return torch.log_softmax(desk.model.logits(ids, mix.coefficients(desk.anchors)), dim=-1)


def params(n: int = 24, seed: int = 7, **options) -> SamplingParams:
    return SamplingParams(max_new_tokens=n, seed=seed, **options)


def test_one_seed_and_mix_give_one_text(desk: Desk):
    mix = desk.mix(formality=0.8)
    first, second = (desk.generate(PROMPT, mix, params()) for _ in range(2))
    assert first.token_ids == second.token_ids and first.text == second.text
    assert desk.generate(PROMPT, mix, params(seed=8)).token_ids != first.token_ids


def test_a_text_is_the_same_alone_and_among_others(desk: Desk):
    wanted = Request(PROMPT, desk.mix(formality=0.8), params())
    others = [Request("x" * n, desk.mix(humor=n / 10), params(4 * n, seed=n)) for n in range(1, 8)]
    batch = desk.generate_batch([*others[:3], wanted, *others[3:]])
    assert batch[3].token_ids == desk.generate(wanted.prompt, wanted.mix, wanted.params).token_ids
    assert [len(out.token_ids) for out in batch] == [4, 8, 12, 24, 16, 20, 24, 28]


def test_steps_are_drawn_from_the_exact_distribution(desk: Desk):
    """Cached decoding gives the log-probabilities of an uncached forward pass over prompt and text so far."""
    mix, session = desk.mix(formality=1.2, humor=-0.6), desk.session(PROMPT, None, params(10))
    session.mix = mix
    ids = list(session.prompt_ids)
    for step in session:
        expected = uncached(desk, ids, mix)[step.token_id]
        assert step.logprob == pytest.approx(float(expected), abs=1e-4)
        assert step.exact and step.mix_key == mix.key
        ids.append(step.token_id)


@pytest.mark.parametrize("native", [True, False])
def test_a_base_with_sliding_windows_decodes_as_exactly(tmp_path: Path, native: bool):
    folders = make_desk_folders(tmp_path, "mistral")
    desk = Desk.load(folders / "base", folders / "anchors", device="cpu", native=native)
    long = params(30, seed=5)
    session, other = desk.session(PROMPT, desk.mix(humor=1), long, "refill"), desk.session("Hi", None, long)
    for step, _ in desk.lockstep(session, other):
        if step is None:
            break
        expected = uncached(desk, session.prompt_ids + session.token_ids[:-1], session.mix)
        assert step.logprob == pytest.approx(float(expected[step.token_id]), abs=1e-4)
        if step.index % 7 == 3:
            session.mix = desk.mix(formality=step.index / 10)
    assert len(session.token_ids) > 16, "a text longer than the window"


@pytest.mark.parametrize("mode", ["keep", "refill", "restart"])
def test_a_move_takes_effect_at_the_next_token(desk: Desk, mode: str):
    target = desk.mix(formality=-1.5)
    session = desk.session(PROMPT, desk.mix(humor=1), params(16), mode)  # type: ignore[arg-type]
    steps = []
    for step in session:
        steps.append(step)
        if len(steps) == 6:
            session.mix = target
    keys = [step.mix_key for step in steps]
    assert keys[:6] == [desk.mix(humor=1).key] * 6 and set(keys[6:]) == {target.key}
    exact = {"keep": [True] * 6 + [False] * 10, "refill": [True] * 16, "restart": [True] * 22}[mode]
    assert [step.exact for step in steps] == exact and session.stats.exact == all(exact)
    assert [step.index for step in steps] == ([*range(6), *range(16)] if mode == "restart" else [*range(16)])


def test_after_a_refill_the_next_token_is_exact_and_after_keep_it_is_not(desk: Desk):
    target, gaps = desk.mix(formality=-1.5), {}
    for mode in ("keep", "refill"):
        # A second row that is shorter at first. Refilling the other one must not touch it or its padding.
        session = desk.session(PROMPT, desk.mix(humor=1), params(12), mode)
        other = desk.session("Hi", desk.mix(humor=-1), params(12))
        for step, _ in desk.lockstep(session, other):
            assert step is not None
            if step.index == 6:
                session.mix = target
            if step.index == 7:
                ids = session.prompt_ids + session.token_ids[:-1]
                expected = uncached(desk, ids, target)[step.token_id]
                gaps[mode] = abs(step.logprob - float(expected))
        assert other.token_ids == list(desk.generate("Hi", desk.mix(humor=-1), params(12)).token_ids)
    assert gaps["refill"] < 1e-4 < gaps["keep"]


def test_a_restart_writes_what_a_fresh_start_would(desk: Desk):
    target = desk.mix(formality=-1.5)
    session = desk.session(PROMPT, None, params(12), "restart")
    longer = desk.session(PROMPT + " the note that was left", None, params(5))
    for step, _ in desk.lockstep(session, longer):
        if step is not None and step.index == 6 and session.mix != target:
            session.mix = target
    assert session.token_ids == list(desk.generate(PROMPT, target, params(12)).token_ids)
    assert session.text == desk.generate(PROMPT, target, params(12)).text


def test_moving_to_an_equal_mix_keeps_the_text_exact(desk: Desk):
    session = desk.session(PROMPT, desk.mix(humor=0.5), params(8))
    for _ in session:
        session.mix = 0.5 * desk.mix(humor=1)
    assert session.stats.exact


def test_a_bad_move_is_refused_in_the_caller_s_thread_and_the_stream_goes_on(desk: Desk):
    session = desk.session(PROMPT, None, params(8))
    for step in session:
        if step.index == 3:
            with pytest.raises(UnknownName, match=r"'charm\.positive'"):
                session.mix = Mix({"charm": Setting.at(1)})
    assert len(session.token_ids) == 8 and session.finish_reason == "length"


def test_base_and_mix_share_their_noise_until_the_mix_makes_a_difference(desk: Desk):
    same = desk.generate_batch([Request(PROMPT, desk.mix(), params()), Request(PROMPT, desk.mix(humor=1e-9), params())])
    assert same[0].token_ids == same[1].token_ids


def test_streams_driven_by_many_threads_do_not_mix(desk: Desk):
    mixes = [desk.mix(formality=p) for p in (-1.0, -0.3, 0.4, 1.0)]
    alone = [desk.generate(PROMPT, mix, params()).token_ids for mix in mixes]
    results: dict[int, tuple[int, ...]] = {}

    def write(index: int) -> None:
        results[index] = desk.generate(PROMPT, mixes[index], params()).token_ids

    threads = [threading.Thread(target=write, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[index] for index in range(4)] == alone


def test_closing_ends_one_stream_and_frees_its_row(desk: Desk):
    first, second = desk.session(PROMPT, None, params(20)), desk.session(PROMPT, None, params(20))
    steps = []
    for rounds, both in enumerate(desk.lockstep(first, second), start=1):
        steps.append(both)
        if rounds == 5:
            first.close()
    assert first.finish_reason == "closed" and len(first.token_ids) == 5
    assert second.finish_reason == "length" and steps[-1][0] is None


def test_leaving_the_iterator_closes_its_sessions(desk: Desk):
    session = desk.session(PROMPT, None, params(20))
    stream = iter(session)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert session.finish_reason == "closed"


def test_a_text_ends_where_the_model_s_context_does(desk: Desk):
    out = desk.generate("x" * 100, None, SamplingParams(max_new_tokens=1000, seed=1))
    assert out.finish_reason == "context" and 101 + len(out.token_ids) == desk.context == 128


def test_a_text_does_not_end_itself_before_min_new_tokens(desk: Desk):
    eos = next(iter(desk.model.eos_ids))
    free = [desk.generate(PROMPT, None, params(60, seed=s, temperature=2.0, top_p=1)) for s in range(20)]
    held = [desk.generate(PROMPT, None, params(60, s, min_new_tokens=60, temperature=2.0, top_p=1)) for s in range(20)]
    assert any(eos in out.token_ids for out in free) and not any(eos in out.token_ids[:59] for out in held)


def test_greedy_takes_the_likeliest_token(desk: Desk):
    step = next(desk.stream(PROMPT, desk.mix(humor=1), params(1, temperature=0)))
    assert step.token_id == int(desk.logprobs(PROMPT, desk.mix(humor=1)).argmax())


@pytest.mark.parametrize("prompt", ["", "   \n", "word " * 20_000, "x" * 128])
def test_a_prompt_that_cannot_be_served_gets_one_clear_line(desk: Desk, prompt: str):
    with pytest.raises(InvalidValue, match="prompt") as caught:
        desk.session(prompt)
    assert len(str(caught.value)) < 200 and caught.value.hint


def test_an_unknown_mode_is_refused(desk: Desk):
    with pytest.raises(UnknownName, match="refill"):
        desk.session(PROMPT, on_mix_change="refil")  # type: ignore[arg-type]


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_streamed_pieces_join_to_the_text_before_the_first_stop(text: str, stops: list[str]):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text).input_ids
    stream = TextStream(tokenizer.backend_tokenizer, ids[:1], stops)
    got = ""
    for token in ids[1:]:
        piece, stopped = stream.push(token)
        got += piece
        assert not any(stop in got for stop in stops)
        if stopped:
            break
    else:
        got += stream.flush()
    whole = str(tokenizer.decode(ids, skip_special_tokens=True))
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert got == whole[: min(ends, default=len(whole))]


def test_stop_texts_are_cut_off(desk: Desk):
    free = desk.generate(PROMPT, None, params(40))
    stop = next(c for c in free.text[5:] if c.isprintable() and c != "�")
    cut = desk.generate(PROMPT, None, params(40, stop=[stop]))
    assert cut.finish_reason == "stop" and cut.text == free.text[: free.text.index(stop)]


def test_errors_are_all_of_one_family(desk: Desk):
    assert issubclass(InvalidValue, MixerError) and issubclass(UnknownName, MixerError)
