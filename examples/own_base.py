"""Train anchors for a base model of your own, and mix them.

    python -m examples.own_base [folder of a causal language model]

Without a folder it makes a tiny random model, so that it runs offline in less than a minute. What that model writes
is noise, but its anchors are trained and mixed like any others.
"""

import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mixer import Desk, SamplingParams
from mixer.resources import BASE
from mixer.training.anchor import AnchorConfig, train_anchors


def tiny_model(folder: Path) -> Path:
    """A random Llama of two layers, with the tokenizer of the shipped base."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


work = Path(tempfile.mkdtemp())  # what is trained stays there
base = Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_model(work / "base")

# The shipped pairs tell one scene in two ways, here casual and formal. An anchor is a LoRA adapter that learns one of
# the two. Few steps at a high rate are enough for a tiny model; for a real one, leave AnchorConfig as it is.
config = AnchorConfig(steps=12, lr=1e-2) if len(sys.argv) == 1 else AnchorConfig()
poles = [("formality", "negative"), ("formality", "positive")]
reports = train_anchors(base, out=work / "anchors", config=config, anchors=poles)
for name, report in reports.items():  # loss: nats a token on pairs that were not trained on; lower is better
    print(f"{name}: loss {report['own_loss_base']:.2f} -> {report['own_loss_anchor']:.2f}")

desk = Desk.load(base, anchors=work / "anchors")
for position in (-1, 0, 1):  # from casual to formal; 0 is the base model
    out = desk.generate("Dear neighbour,", desk.mix(formality=position), SamplingParams(max_new_tokens=12, seed=1))
    print(f"formality {position}: {' '.join(out.text.split())}")
print("Anchors are in", work / "anchors")
