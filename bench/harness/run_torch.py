"""Peers on torch: plain `transformers`, PEFT in every mode it has of running a mix, and the float32 reference.

PEFT at its best: its LoRA layers are looked up once, their scales and active adapters set without its walks over the
model, and slider moves are decoded by a bare loop. Runs in a worker process; uses nothing of the desk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig
from transformers.generation.streamers import BaseStreamer

from bench.harness.config import poles

KEPT = 96  # tokens of a text on which moves are measured
LIVE = "mix"


class TorchRunner:
    """One base in the measured precision, plain, with adapters, and merged.

    Args:
        adapters: folders of PEFT adapters in coefficient order.
    """

    def __init__(self, base: str, dtype: str, threads: int, adapters: Sequence[str]) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._base, self._adapters = base, [Path(folder) for folder in adapters]
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._plain = self._load(self._dtype)
        self._lm = self._load(self._dtype)
        self._peft = peft.PeftModel.from_pretrained(
            self._lm, self._adapters[0], adapter_name="0", autocast_adapter_dtype=False
        )
        for index, folder in enumerate(self._adapters[1:], start=1):
            self._peft.load_adapter(folder, adapter_name=str(index), autocast_adapter_dtype=False)
        self._peft.to(self._dtype).eval()
        self._layers = [module for module in self._peft.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
        self._merged: tuple[tuple[float, ...], Any] = ((), None)
        self._reference: tuple[tuple[float, ...], Any] = ((), None)

    def facts(self) -> dict[str, Any]:
        """Versions."""
        return {"transformers": transformers.__version__, "peft": peft.__version__, "torch": torch.__version__}

    @torch.inference_mode()
    def judge(
        self, ids: Sequence[int], coefficients: Sequence[float], tokens: Sequence[int], ends: Sequence[int]
    ) -> dict:
        """The float32 reference, `W0 + sum c s B A` in plain `transformers`, on a text that a system wrote.

        Args:
            tokens: what it wrote after `ids`; may be empty.
            ends: end-of-text tokens, which systems may not have been free to choose.

        Returns:
            `logprobs` `(V,)` after the prompt, and `short` for each token: how much less likely than the likeliest.
        """
        model = self._merged_model("_reference", coefficients, torch.float32)
        row = torch.tensor([[*ids, *tokens]])
        logprobs = torch.log_softmax(model(input_ids=row, use_cache=False).logits[0, len(ids) - 1 :], dim=-1)
        written = logprobs[: len(tokens)]
        best = written.clone()
        best[:, list(ends)] = -torch.inf
        own = written.gather(1, torch.tensor(list(tokens), dtype=torch.long)[:, None])[:, 0]
        return {"logprobs": logprobs[0].tolist(), "short": (best.amax(-1) - own).tolist() if tokens else []}

    @torch.inference_mode()
    def logprobs(self, ids: Sequence[int], coefficients: Sequence[float], mode: str) -> list[float]:
        """Next-token log-probabilities `(V,)`."""
        lm = self._ready(coefficients, mode)
        logits = lm(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
        return torch.log_softmax(logits.float(), dim=-1).tolist()

    @torch.inference_mode()
    def write(self, ids: Sequence[int], coefficients: Sequence[float], tokens: int, mode: str) -> dict[str, Any]:
        """One text by `generate`: its token ids, seconds to the first token, seconds of each step after it.

        Args:
            mode: `plain`, `active` (all live adapters, one after another), `cat` (joined into one), `merged`.
        """
        lm = self._ready(coefficients, mode)
        clock, row = _Clock(), torch.tensor([list(ids)])
        begin = perf_counter()
        out = lm.generate(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=tokens,
            do_sample=False,
            streamer=clock,
        )
        times = clock.times[1:]  # the prompt is streamed too
        return {
            "tokens": out[0, len(ids) :].tolist(),
            "first": times[0] - begin,
            "steps": [b - a for a, b in pairwise(times)],
        }

    def write_batch(self, ids: Sequence[int], mixes: Sequence[Sequence[float]], tokens: int, mode: str) -> dict:
        """One text a mix, one after another: no mode of PEFT's runs different mixes in one batch."""
        texts, seconds, decode = [], 0.0, 0.0
        for mix in mixes:
            begin = perf_counter()
            text = self.write(ids, mix, tokens, mode)
            seconds += perf_counter() - begin
            decode += sum(text["steps"])
            texts.append(text["tokens"])
        return {"tokens": texts, "seconds": seconds, "decode": decode}

    @torch.inference_mode()
    def moves(
        self, ids: Sequence[int], anchors: int, moves: Sequence[tuple[int, Mapping[str, float]]], exact: bool, mode: str
    ) -> dict[str, Any]:
        """Slider moves on a running text, each followed by a step under it and a step at rest.

        Args:
            mode: `active` (set scales), `merge` (unmerge, set scales, merge), `cat` (join the live adapters anew).
            exact: read the whole text again after a move.
        """
        mix = [0.0] * anchors
        mix[0] = 0.5
        self._ready(mix, mode)
        apply = {"active": self._activate, "merge": self._merge, "cat": self._join}[mode]
        taken: dict[str, Any] = {"apply": [], "first": [], "rest": []}
        text = _Loop(self._lm, ids)
        for _, positions in moves:
            if len(text.ids) - len(ids) > KEPT - 2:
                text = _Loop(self._lm, ids)
            begin = perf_counter()
            for slider, position in positions.items():
                mix[2 * int(slider) : 2 * int(slider) + 2] = poles(position)
            apply(mix)
            applied = perf_counter()
            text.again() if exact else text.step()
            first = perf_counter()
            text.step()
            taken["rest"].append(perf_counter() - first)
            taken["apply"].append(applied - begin)
            taken["first"].append(first - begin)
        if mode == "merge":
            self._peft.unmerge_adapter()
            taken["drift"] = self._drift()
        return taken

    def _load(self, dtype: torch.dtype) -> Any:
        lm = AutoModelForCausalLM.from_pretrained(self._base, dtype=dtype).eval()
        # No end of text: all texts are equally long, and generate has one thing less to do.
        lm.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0, bos_token_id=0)
        return lm

    def _ready(self, coefficients: Sequence[float], mode: str) -> Any:
        """The model that runs a mix this mode."""
        if mode == "plain":
            return self._plain
        if self._layers[0].merged:
            self._peft.unmerge_adapter()
        if mode == "merged":
            return self._merged_model("_merged", coefficients, self._dtype)
        {"active": self._activate, "cat": self._join, "merge": self._merge}[mode](coefficients)
        return self._lm

    def _merged_model(self, slot: str, coefficients: Sequence[float], dtype: torch.dtype) -> Any:
        former, model = getattr(self, slot)
        if model is None or former != tuple(coefficients):
            model = merged(self._load(torch.float32), self._adapters, coefficients).to(dtype)
            setattr(self, slot, (tuple(coefficients), model))
        return model

    def _activate(self, coefficients: Sequence[float]) -> None:
        """Live adapters at their scales, the others off."""
        live = [str(index) for index, coefficient in enumerate(coefficients) if coefficient]
        for layer in self._layers:
            layer._active_adapter = live
            for name in live:
                layer.set_scale(name, coefficients[int(name)])

    def _merge(self, coefficients: Sequence[float]) -> None:
        self._peft.unmerge_adapter()
        self._activate(coefficients)
        self._peft.merge_adapter()

    def _join(self, coefficients: Sequence[float]) -> None:
        live = [(str(index), coefficient) for index, coefficient in enumerate(coefficients) if coefficient]
        if LIVE in self._peft.peft_config:
            self._peft.delete_adapter(LIVE)
        for layer in self._layers:  # the joined adapter multiplies scales in; they must be the adapters' own
            for name, _ in live:
                layer.set_scale(name, 1.0)
        weights = [coefficient for _, coefficient in live]
        self._peft.add_weighted_adapter([name for name, _ in live], weights, LIVE, combination_type="cat")
        for layer in self._layers:
            layer._active_adapter = [LIVE]

    def _drift(self) -> float:
        """Share of the base's numbers that are no longer what they were."""
        changed = total = 0
        for layer in self._layers:
            name = next(n for n, module in self._lm.named_modules() if module is layer)
            weight: Any = layer.get_base_layer().weight
            changed += int((weight != self._plain.get_submodule(name).weight).sum())
            total += weight.numel()
        return changed / total


def merged(lm: Any, adapters: Sequence[Path], coefficients: Sequence[float]) -> Any:
    """`lm` (float32) with `W0 + sum c s B A` for weights, summed in float64; one scaling an adapter."""
    with torch.no_grad():
        deltas: dict[str, Tensor] = {}
        for folder, coefficient in zip(adapters, coefficients, strict=False):
            if coefficient:
                for name, delta in _deltas(folder):
                    deltas[name] = deltas.get(name, torch.zeros(())) + coefficient * delta
        for name, delta in deltas.items():
            weight = lm.get_submodule(name).weight
            weight.copy_((weight.double() + (delta if weight.shape == delta.shape else delta.T)).float())
    return lm


def _deltas(folder: Path) -> list[tuple[str, Tensor]]:
    config: Any = peft.LoraConfig.from_pretrained(str(folder))
    scaling = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    tensors = load_file(folder / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return [
        (
            name.removeprefix("base_model.model."),
            scaling * (tensors[f"{name}.lora_B.weight"].double() @ tensors[f"{name}.lora_A.weight"].double()),
        )
        for name in names
    ]


class _Clock(BaseStreamer):
    """When each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(perf_counter())

    def end(self) -> None:
        pass


class _Loop:
    """Greedy decoding with nothing around it, a few steps in."""

    def __init__(self, lm: Any, ids: Sequence[int]) -> None:
        self._lm: Callable[..., Any] = lm
        self.ids = list(ids)
        self.again()
        for _ in range(3):
            self.step()

    def again(self) -> None:
        """Read the whole text and write one token."""
        self._cache = DynamicCache()
        self._take(torch.tensor([self.ids]))

    def step(self) -> None:
        """Write one token."""
        self._take(self._last)

    def _take(self, row: Tensor) -> None:
        out = self._lm(input_ids=row, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._last = out.logits[:, -1:].argmax(-1)
        self.ids.append(int(self._last))
