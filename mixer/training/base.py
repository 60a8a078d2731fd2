"""Training of a small Llama from scratch: Muon for matrices, AdamW for the rest, bfloat16 weights with float32 masters.

Muon: Jordan et al. 2024, as in `torch.optim`. On a CPU three things make a step fast: matrix products in bfloat16,
attention as plain products that the compiler fuses (the backward pass of the CPU's flash kernel took 27 % of a step),
and an allocator that keeps its pages (see `mixer.process`).
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mixer.errors import InvalidValue
from mixer.training.corpus import MIX, RowSampler, TokenizedSource, tokenize_source, train_tokenizer
from mixer.training.optimizers import MasterOptimizer


@dataclass(frozen=True)
class BaseConfig:
    """Shape of the model and length of the run, which is either `minutes` or `tokens`."""

    vocab_size: int = 8192
    hidden_size: int = 384
    intermediate_size: int = 1024
    layers: int = 5
    heads: int = 6
    context: int = 512
    rows: int = 16
    minutes: float | None = None
    tokens: int | None = None
    matrix_lr: float = 0.012
    other_lr: float = 3e-3
    warmup_steps: int = 60
    constant_until: float = 0.4
    checkpoint_minutes: float = 4.0
    seed: int = 0
    compile: bool = True

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.tokens is None):
            raise InvalidValue("The length of the run is not clear.", "Give either --minutes or --tokens.")
        if self.hidden_size % self.heads:
            raise InvalidValue(
                f"hidden_size {self.hidden_size} does not divide into {self.heads} heads.", "Change one of them."
            )

    def llama(self) -> LlamaConfig:
        """The model's shape as a `transformers` configuration."""
        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )


def learning_rate_scale(step: int, fraction: float, config: BaseConfig) -> float:
    """Linear warm-up by steps, then constant; from `constant_until` of the run on, linear to zero at its end."""
    decay = min(1.0, (1.0 - fraction) / (1.0 - config.constant_until))
    return max(0.0, min(1.0, (step + 1) / config.warmup_steps, decay))


def train_base(data: Path, out: Path, work: Path, config: BaseConfig) -> dict:
    """Train a base model and write it and its tokenizer to `out`; checkpoints are in `work`, where a run resumes.

    Returns:
        the report, which is also written to `out/training.json`: tokens, losses, held-out bits per byte.
    """
    tokenizer = _tokenizer(data, work, config)
    sources = {name: tokenize_source(data, name, tokenizer, work / "tokens") for name in MIX}
    sampler = RowSampler({name: s.train for name, s in sources.items()}, MIX, config.context, config.seed)
    torch.manual_seed(config.seed)
    accelerator = Accelerator()
    on_cpu = accelerator.device.type == "cpu"
    model = LlamaForCausalLM(config.llama())
    model.set_attn_implementation("eager" if on_cpu else "sdpa")
    model = accelerator.prepare(model.bfloat16())
    optimizer = MasterOptimizer(model, config.matrix_lr, config.other_lr)
    forward = torch.compile(model) if config.compile and (not on_cpu or shutil.which("g++")) else model

    checkpoint = work / "checkpoint.pt"
    step, spent, loss_mean = 0, 0.0, math.log(config.vocab_size)
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=accelerator.device, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        step, spent, loss_mean, sampler.drawn = state["step"], state["spent"], state["loss"], state["drawn"]

    def fraction() -> float:
        if config.minutes is not None:
            return spent / (60 * config.minutes)
        return step * config.rows * config.context / (config.tokens or 1)

    def save() -> None:
        state = {"optimizer": optimizer.state_dict(), "step": step, "spent": spent, "loss": loss_mean}
        torch.save(state | {"drawn": sampler.drawn}, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    started, saved_at, first_step = time.perf_counter(), time.perf_counter(), step
    tokens_a_step = config.rows * config.context
    with tqdm(total=100, unit="%", bar_format="{desc} |{bar}| {n:.1f} % {postfix}", file=sys.stderr) as bar:
        while fraction() < 1:
            begin = time.perf_counter()
            rows = torch.from_numpy(sampler.next_rows(config.rows)).to(accelerator.device)
            loss = forward(input_ids=rows[:, :-1], labels=rows[:, :-1], shift_labels=rows[:, 1:].contiguous()).loss
            accelerator.backward(loss)
            optimizer.step(learning_rate_scale(step, fraction(), config))
            if step % 10 == 0:
                loss_mean = 0.8 * loss_mean + 0.2 * loss.item() if step > 50 else loss.item()
                speed = (step - first_step + 1) * tokens_a_step / (time.perf_counter() - started)
                bar.n = min(100.0, 100 * fraction())
                bar.set_postfix_str(f"step {step} · loss {loss_mean:.3f} · {speed:,.0f} tokens/s")
            step += 1
            spent += time.perf_counter() - begin
            if time.perf_counter() - saved_at > 60 * config.checkpoint_minutes:
                save()
                saved_at = time.perf_counter()
    save()

    model = accelerator.unwrap_model(model)
    model.set_attn_implementation("sdpa")
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": step * tokens_a_step,
        "minutes": round(spent / 60, 1),
        "train_loss": round(loss_mean, 4),
        "held_out_bits_per_byte": bits_per_byte(model, sources, config.context),
        "config": asdict(config),
    }
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _tokenizer(data: Path, work: Path, config: BaseConfig) -> PreTrainedTokenizerFast:
    folder = work / "tokenizer"
    if not folder.is_dir():
        train_tokenizer(data, config.vocab_size).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@torch.inference_mode()
def bits_per_byte(
    model: LlamaForCausalLM, sources: dict[str, TokenizedSource], context: int, max_blocks: int = 48
) -> dict[str, float]:
    """Held-out bits per UTF-8 byte of each source, over at most `max_blocks` blocks of `context` tokens."""
    model.eval()
    result = {}
    for name, source in sources.items():
        blocks = min(max_blocks, (len(source.held_out) - 1) // context)
        if blocks < 1:
            continue
        starts = np.linspace(0, len(source.held_out) - context - 1, blocks).astype(int)
        nats = 0.0
        for start in starts:
            ids = torch.from_numpy(source.held_out[start : start + context + 1].astype(np.int64))[None].to(model.device)
            loss = model(input_ids=ids[:, :-1], labels=ids[:, :-1], shift_labels=ids[:, 1:].contiguous()).loss
            nats += float(loss) * context
        bytes_a_token = source.held_out_bytes / len(source.held_out)
        result[name] = round(nats / math.log(2) / (blocks * context * bytes_a_token), 4)
    return result
