"""The page's export: what is refused, and that each file is what the command line writes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mixer import Desk, MixerError, load_mix
from mixer.files.mix_file import load_steering
from mixer.ui.panels.export import read_request, write
from mixer.ui.state.page_state import PageState

STATE = PageState(positions={"poetry": 0.8, "formality": -0.4}).json()


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        {"kind": "pickle"},
        {"kind": ["mix"]},
        {"dtype": "int3"},
        {"rank": 0},
        {"rank": True},
        {"rank": 1.5},
        {"rank": float("nan")},
        {"rank": 10**9},
        {"state": None},
        {"state": {"positions": {"../../etc": 1}}},
        {"state": {"positions": {"poetry": float("nan")}}},
    ],
)
def test_what_is_no_wish_is_refused_in_a_sentence(desk: Desk, wrong: object) -> None:
    posted = {"state": STATE, "kind": "mix"} | wrong if isinstance(wrong, dict) and wrong else wrong
    with pytest.raises(MixerError):
        read_request(posted, desk)


def test_a_mix_comes_back_from_its_file_with_its_rewards(desk: Desk, tmp_path: Path) -> None:
    asked = read_request({"kind": "mix", "state": {**STATE, "rewards": {"sentiment": 0.5}, "budget": 0.3}}, desk)
    path, about = write(desk, asked, tmp_path)
    assert load_mix(path) == desk.mix({"poetry": 0.8, "formality": -0.4})
    assert load_steering(path) == asked.state.steers
    assert "formula" not in about


def test_an_adapter_and_a_merged_model_write_what_the_desk_writes(desk: Desk, tmp_path: Path) -> None:
    adapter, about = write(desk, read_request({"kind": "adapter", "state": STATE}, desk), tmp_path)
    assert "retained energy 1.0000" in about
    merged, _ = write(desk, read_request({"kind": "merged", "state": STATE}, desk), tmp_path)
    for path in (adapter, merged):
        with zipfile.ZipFile(path) as archive:
            assert all(name.startswith(f"{path.stem}/") for name in archive.namelist())
            archive.extractall(tmp_path / "read")
    base = Path("assets/base")
    ids = torch.tensor([desk.session("The door was").prompt_ids])
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "read/adapter"
    )
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "read/merged", dtype=torch.float32)
    with torch.no_grad():
        first, second = (torch.log_softmax(model(ids).logits[0, -1], -1) for model in (peft, whole))
    assert torch.allclose(first, second, atol=1e-4)
    ours = desk.logprobs("The door was", desk.mix({"poetry": 0.8, "formality": -0.4}))
    assert torch.allclose(first[: len(ours)], ours, atol=1e-4)


def test_what_a_file_cannot_hold_is_said(desk: Desk, tmp_path: Path) -> None:
    state = {**STATE, "formula": "base + 0.5*[formal]", "rewards": {"sentiment": 0.5}}
    _, about = write(desk, read_request({"kind": "adapter", "rank": 4, "state": state}, desk), tmp_path)
    assert "formula is not in it" in about and "rewards are not in it" in about
    with pytest.raises(MixerError, match="Move a slider"):
        write(desk, read_request({"kind": "adapter", "state": {}}, desk), tmp_path)
