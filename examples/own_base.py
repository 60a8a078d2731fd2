"""Anchors for a base model of your own: train them from pairs, load the desk, mix.

    python examples/own_base.py [folder of a causal language model]

Without a folder it makes a tiny random model, so that it runs in a minute on any machine; what that writes is noise.
"""

import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mixer import Desk, SamplingParams
from mixer.resources import BASE
from mixer.training.anchor import AnchorConfig, train_anchors


def tiny_model(folder: Path) -> Path:
    """A random Llama of two layers with the tokenizer of the embedded base."""
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


work = Path(tempfile.mkdtemp())
base = Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_model(work / "base")

# The shipped pairs say the same thing in two ways. An anchor is a LoRA adapter that learns one of the two.
poles = [("formality", "negative"), ("formality", "positive")]
train_anchors(base, out=work / "anchors", config=AnchorConfig(steps=20), anchors=poles)

desk = Desk.load(base, anchors=work / "anchors")
print("Anchors:", *desk.anchors)
for position in (-1, 0, 1):
    out = desk.generate("Dear neighbour,", desk.mix(formality=position), SamplingParams(max_new_tokens=12, seed=1))
    print(f"formality {position:+}: {out.text!r}")
