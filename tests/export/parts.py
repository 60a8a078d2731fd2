"""What tests of exports share: anchors of different ranks, random mixes, and the files read by other libraries."""

from __future__ import annotations

import random
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mixer import Desk, Mix
from tests.factory import TARGETS, make_adapter, make_base

PROMPT = "The doctor took off his glasses"
KINDS = ("llama", "qwen", "gpt2")


def uneven(root: Path, kind: str) -> Path:
    """Make `root/base` and adapters of different ranks: with rsLoRA, with patterns, on few modules."""
    base, few = make_base(root / "base", kind), TARGETS[kind][:1]
    options = {
        "formality/negative": {"r": 2, "lora_alpha": 3},
        "formality/positive": {"r": 5, "use_rslora": True},
        "humor/negative": {"r": 3, "target_modules": few},
        "humor/positive": {"rank_pattern": {few[0]: 7}, "alpha_pattern": {few[0]: 2}},
        "poetry/positive": {"r": 1, "target_modules": TARGETS[kind][-1:]},
    }
    for seed, (name, own) in enumerate(options.items(), start=1):
        make_adapter(base, root / "anchors" / name, kind, seed, **own)
    return root


def mixes(desk: Desk, count: int = 10) -> list[Mix]:
    """Mixes of random anchors with coefficients below 0 and above 1 among them."""
    rng = random.Random(7)
    found = []
    for _ in range(count):
        chosen = rng.sample(desk.anchors, k=rng.randint(1, min(5, len(desk.anchors))))
        found.append(desk.mix_from_coefficients({name: rng.choice([-1.5, -0.3, 0.4, 1.0, 1.7]) for name in chosen}))
    return found


def base_of(desk: Desk) -> str:
    return str(desk.base_model.name_or_path)


def ids(desk: Desk) -> torch.Tensor:
    return torch.tensor([desk.tokenizer(PROMPT).input_ids])


@torch.inference_mode()
def logprobs(model: torch.nn.Module, desk: Desk) -> torch.Tensor:
    return torch.log_softmax(model.eval()(ids(desk)).logits[0, -1].float(), dim=-1)


def with_peft(desk: Desk, folder: Path) -> torch.Tensor:
    """Next-token log-probabilities of the base with an adapter, by plain `peft`."""
    base = AutoModelForCausalLM.from_pretrained(base_of(desk), dtype=torch.float32)
    return logprobs(peft.PeftModel.from_pretrained(base, str(folder)), desk)


def factors(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B of an adapter file by module, in float64."""
    tensors = load_file(folder / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return {
        name.removeprefix("base_model.model."): (
            tensors[f"{name}.lora_A.weight"].double(),
            tensors[f"{name}.lora_B.weight"].double(),
        )
        for name in names
    }
