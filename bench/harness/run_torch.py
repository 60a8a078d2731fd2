"""Peers on torch, in a worker process: plain `transformers`, PEFT in all its modes, and the float32 reference.

PEFT runs at its best: its LoRA layers are looked up once, their scales and active adapters are set directly, and texts
with slider moves are decoded by a bare loop. Uses nothing of the desk.

Modes of PEFT: `active` (scales on all live adapters), `cat` (live adapters joined into one), `merge` (adapters merged
into the weights in place). `merged` is another model whose weights were merged beforehand; `plain` has no adapters.
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

TEXT_TOKENS = 96  # length of a text on which moves are measured
JOINED = "mix"  # name of the adapter that `cat` makes


class TorchRunner:
    """One base in the measured precision: plain, with adapters, and merged.

    Args:
        base: folder of the model. adapters: folders of PEFT adapters in coefficient order.
    """

    def __init__(self, base: str, dtype: str, threads: int, adapters: Sequence[str]) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._base, self._adapters = base, [Path(folder) for folder in adapters]
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._plain_lm = self._load(self._dtype)
        self._lm = self._load(self._dtype)
        self._peft = peft.PeftModel.from_pretrained(
            self._lm, self._adapters[0], adapter_name="0", autocast_adapter_dtype=False
        )
        for index, folder in enumerate(self._adapters[1:], start=1):
            self._peft.load_adapter(folder, adapter_name=str(index), autocast_adapter_dtype=False)
        self._peft.to(self._dtype).eval()
        self._layers = [module for module in self._peft.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
        self._merged_lm: tuple[tuple[float, ...], Any] = ((), None)
        self._reference_lm: tuple[tuple[float, ...], Any] = ((), None)

    def facts(self) -> dict[str, Any]:
        """Versions of the libraries."""
        return {"transformers": transformers.__version__, "peft": peft.__version__, "torch": torch.__version__}

    @torch.inference_mode()
    def reference(
        self, ids: Sequence[int], coefficients: Sequence[float], tokens: Sequence[int], ends: Sequence[int]
    ) -> dict:
        """Answers of the float32 reference, weights `W0 + sum c s B A` in plain `transformers`, on a text of a system.

        Args:
            tokens: what the system wrote after `ids`; may be empty.
            ends: end-of-text tokens; they do not count as likeliest, because systems may not choose them.

        Returns:
            `logprobs` `(V,)` after the prompt, and `short`: for each token, how much less likely it is than the
            likeliest, in nats.
        """
        model = self._merged_model("_reference_lm", coefficients, torch.float32)
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
        lm = self._lm_for(coefficients, mode)
        logits = lm(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
        return torch.log_softmax(logits.float(), dim=-1).tolist()

    @torch.inference_mode()
    def write(self, ids: Sequence[int], coefficients: Sequence[float], tokens: int, mode: str) -> dict[str, Any]:
        """One greedy text by `generate`: its token ids, seconds to the first token, seconds of each later step.

        Args:
            mode: `plain`, `active`, `cat` or `merged`; see above.
        """
        lm = self._lm_for(coefficients, mode)
        streamer, row = _TokenTimes(), torch.tensor([list(ids)])
        begin = perf_counter()
        out = lm.generate(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=tokens,
            do_sample=False,
            streamer=streamer,
        )
        times = streamer.times[1:]  # the prompt is streamed too
        return {
            "tokens": out[0, len(ids) :].tolist(),
            "first": times[0] - begin,
            "steps": [b - a for a, b in pairwise(times)],
        }

    def write_batch(self, ids: Sequence[int], mixes: Sequence[Sequence[float]], tokens: int, mode: str) -> dict:
        """One text for each mix, one after another: PEFT has no mode that runs different mixes in one batch.

        Returns:
            `tokens` of each text, `seconds` in all, and seconds of `decode`, without the first token of each text.
        """
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
        """Slider moves on a running text; after each one a step under the new mix and a step without a move.

        Args:
            moves: row (ignored: there is one text) and positions by slider number.
            exact: read the whole text again after a move, in place of stale keys and values.
            mode: `active` (set scales), `merge` (unmerge, set scales, merge), `cat` (join the live adapters again).

        Returns:
            seconds of each move, see `MixerRunner.moves`; with `merge` also `drift`, the share of the adapted weights
            that differ from those of the base after the run.
        """
        mix = [0.0] * anchors
        mix[0] = 0.5
        self._lm_for(mix, mode)
        apply = {"active": self._activate_adapters, "merge": self._merge_adapters, "cat": self._join_adapters}[mode]
        times: dict[str, Any] = {"apply": [], "first": [], "rest": []}
        text = _GreedyText(self._lm, ids)
        for _, positions in moves:
            if len(text.ids) - len(ids) > TEXT_TOKENS - 2:
                text = _GreedyText(self._lm, ids)
            begin = perf_counter()
            for slider, position in positions.items():
                mix[2 * int(slider) : 2 * int(slider) + 2] = poles(position)
            apply(mix)
            applied = perf_counter()
            text.refill() if exact else text.step()
            first = perf_counter()
            text.step()
            times["rest"].append(perf_counter() - first)
            times["apply"].append(applied - begin)
            times["first"].append(first - begin)
        if mode == "merge":
            self._peft.unmerge_adapter()
            times["drift"] = self._changed_share()
        return times

    def _load(self, dtype: torch.dtype) -> Any:
        lm = AutoModelForCausalLM.from_pretrained(self._base, dtype=dtype).eval()
        # Without end-of-text tokens all texts are equally long, and `generate` has less to do.
        lm.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0, bos_token_id=0)
        return lm

    def _lm_for(self, coefficients: Sequence[float], mode: str) -> Any:
        """The model that runs a mix in this mode."""
        if mode == "plain":
            return self._plain_lm
        if self._layers[0].merged:
            self._peft.unmerge_adapter()
        if mode == "merged":
            return self._merged_model("_merged_lm", coefficients, self._dtype)
        {"active": self._activate_adapters, "cat": self._join_adapters, "merge": self._merge_adapters}[mode](
            coefficients
        )
        return self._lm

    def _merged_model(self, slot: str, coefficients: Sequence[float], dtype: torch.dtype) -> Any:
        """A model with these merged coefficients; the attribute `slot` keeps the latest one."""
        built_for, model = getattr(self, slot)
        if model is None or built_for != tuple(coefficients):
            model = merged(self._load(torch.float32), self._adapters, coefficients).to(dtype)
            setattr(self, slot, (tuple(coefficients), model))
        return model

    def _activate_adapters(self, coefficients: Sequence[float]) -> None:
        """Set the scales of the live adapters; the others are off."""
        live = [str(index) for index, coefficient in enumerate(coefficients) if coefficient]
        for layer in self._layers:
            layer._active_adapter = live
            for name in live:
                layer.set_scale(name, coefficients[int(name)])

    def _merge_adapters(self, coefficients: Sequence[float]) -> None:
        self._peft.unmerge_adapter()
        self._activate_adapters(coefficients)
        self._peft.merge_adapter()

    def _join_adapters(self, coefficients: Sequence[float]) -> None:
        live = [(str(index), coefficient) for index, coefficient in enumerate(coefficients) if coefficient]
        if JOINED in self._peft.peft_config:
            self._peft.delete_adapter(JOINED)
        for layer in self._layers:  # the joined adapter multiplies with the scales, so they must be 1
            for name, _ in live:
                layer.set_scale(name, 1.0)
        weights = [coefficient for _, coefficient in live]
        self._peft.add_weighted_adapter([name for name, _ in live], weights, JOINED, combination_type="cat")
        for layer in self._layers:
            layer._active_adapter = [JOINED]

    def _changed_share(self) -> float:
        """The share of the adapted weights that differ from those of the base."""
        changed = total = 0
        for layer in self._layers:
            name = next(n for n, module in self._lm.named_modules() if module is layer)
            weight: Any = layer.get_base_layer().weight
            changed += int((weight != self._plain_lm.get_submodule(name).weight).sum())
            total += weight.numel()
        return changed / total


def merged(lm: Any, adapters: Sequence[Path], coefficients: Sequence[float]) -> Any:
    """`lm` (float32) after its weights became `W0 + sum c s B A`; s is the scaling of each adapter; sums in float64."""
    with torch.no_grad():
        deltas: dict[str, Tensor] = {}
        for folder, coefficient in zip(adapters, coefficients, strict=False):
            if coefficient:
                for name, delta in _weight_deltas(folder):
                    deltas[name] = deltas.get(name, torch.zeros(())) + coefficient * delta
        for name, delta in deltas.items():
            weight = lm.get_submodule(name).weight
            weight.copy_((weight.double() + (delta if weight.shape == delta.shape else delta.T)).float())
    return lm


def _weight_deltas(folder: Path) -> list[tuple[str, Tensor]]:
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


class _TokenTimes(BaseStreamer):
    """Notes the time of each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(perf_counter())

    def end(self) -> None:
        pass


class _GreedyText:
    """A text by greedy decoding in a bare loop; three steps are done at first."""

    def __init__(self, lm: Any, ids: Sequence[int]) -> None:
        self._lm: Callable[..., Any] = lm
        self.ids = list(ids)
        self.refill()
        for _ in range(3):
            self.step()

    def refill(self) -> None:
        """Read the whole text again and write one token."""
        self._cache = DynamicCache()
        self._take(torch.tensor([self.ids]))

    def step(self) -> None:
        """Write one token."""
        self._take(self._last)

    def _take(self, row: Tensor) -> None:
        out = self._lm(input_ids=row, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._last = out.logits[:, -1:].argmax(-1)
        self.ids.append(int(self._last))
