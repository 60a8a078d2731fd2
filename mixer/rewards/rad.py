"""RAD at decode time: a trained reward model that scores the next tokens of a text, all of them in one pass.

    r(v | x) = clamp(<h(x v), w> + b, 0, 1)        h the final state after the text x and the token v

The reward model is the base's network with weights of its own. The candidates are alternatives at one position, so they
share the text's keys and values, which stay in a row from token to token. Knows nothing of distributions, sliders or
training.

Source: Deng and Raffel, "Reward-Augmented Decoding", EMNLP 2023, arXiv 2310.09520.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mixer.adapters.fingerprint import base_fingerprint
from mixer.errors import BadArtifact, Unsupported
from mixer.model.backend import Backend
from mixer.model.base import is_quantized
from mixer.model.cpu_backend import CpuBackend, unsupported
from mixer.model.prefix_cache import common_prefix
from mixer.model.torch_backend import TorchBackend
from mixer.rewards.files import read_calibration
from mixer.rewards.heads import HeadCalibration

WEIGHTS, REPORT = "teacher.safetensors", "teacher.json"
HINT = "Train it with `python -m mixer train reward ATTRIBUTE --kind rad`."
LORA_SCALING = 2.0
ROWS = 32  # texts whose keys and values are kept
REACH = 20  # the paper's k
NEAR = 8  # tokens that a text has grown by since it was scored last, at most, to be found at once


@dataclass(frozen=True)
class Teacher:
    """A reward model on disk.

    Attributes:
        backbone: its weights by their names in the base's network, or, with `lora`, those of adapters on it.
        weight: of the output, `(D,)`, and bias.
        calibration: None where it was not measured.
    """

    backbone: Mapping[str, Tensor]
    weight: Tensor
    bias: float
    lora: bool
    calibration: HeadCalibration | None

    def weights(self, lm: PreTrainedModel) -> dict[str, Tensor]:
        """All weights of the base's network as the reward model has them, by name.

        Raises:
            Unsupported: it needs the base's own weights, and those are quantized.
        """
        if not self.lora:
            return dict(self.backbone)
        if is_quantized(lm):
            raise Unsupported("A reward model of adapters needs the base's own weights.", "Load the base unquantized.")
        network: Any = lm.base_model
        weights = {name: weight.detach() for name, weight in network.named_parameters()}
        for key, a in self.backbone.items():
            name, adapted, _ = key.removeprefix("base_model.model.").partition(".lora_A.")
            if adapted:
                b = self.backbone[key.replace(".lora_A.", ".lora_B.")]
                delta = LORA_SCALING * (b.float() @ a.float())
                delta = delta.T if isinstance(network.get_submodule(name), Conv1D) else delta
                weights[f"{name}.weight"] = weights[f"{name}.weight"].float() + delta.to(lm.device)
        return weights


def read_teacher(folder: Path, fingerprint: str) -> Teacher:
    """A trained reward model's files.

    Args:
        fingerprint: of the base at hand.

    Raises:
        BadArtifact: they are missing or damaged, or of another base.
    """
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        backbone = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
        lora = bool(report["made_from"]["config"]["lora"])
        own, measured = report["base_fingerprint"], report.get("calibration")
        calibration = read_calibration(measured) if measured else None
        teacher = Teacher(backbone, tensors["weight"].float(), float(tensors["bias"]), lora, calibration)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BadArtifact(f"There is no reward model in {folder}: {error}.", HINT) from error
    if own != fingerprint:
        raise BadArtifact(f"The reward model in {folder} was trained on another base model.", "Train it again.")
    return teacher


class Rad:
    """A reward model that follows texts as they grow; threads take turns.

    Args:
        backend: of the reward model, with room for `ROWS` rows; its logits do not matter.
        weight: of the output, `(D,)`.

    Attributes:
        calibration: of the clamped rewards of the `reach` likeliest tokens.
        reach: how many of the likeliest tokens it is to be asked about.
    """

    reach = REACH

    def __init__(self, backend: Backend, weight: Tensor, bias: float, calibration: HeadCalibration) -> None:
        self.calibration = calibration
        self.backend, self._weight, self._bias = backend, weight, bias
        self._lock = threading.Lock()
        self._held: dict[int, tuple[int, ...]] = dict.fromkeys(range(ROWS), ())  # by row, longest unused first
        for row in self._held:
            backend.gate[row] = ()

    def rewards(self, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Rewards of a text with each of these tokens after it, `(k,)` float32 in [0, 1], by one pass."""
        n, k = len(ids), len(tokens)
        with self._lock:
            row, held = self._row_for(ids)
            positions = [*range(held, n), *[n] * k]
            wanted = range(n - held, n - held + k)
            self.backend.forward([*ids[held:], *tokens], [row] * len(positions), positions, wanted, range(held, n + k))
            self._held[row] = tuple(ids)
            return self._scores()

    def _scores(self) -> Tensor:
        """Of the last pass's wanted tokens; in float32 whatever the network's weights are."""
        states = self.backend.states.cpu()
        return (states @ self._weight + self._bias).clamp(0, 1)

    def _row_for(self, ids: Sequence[int]) -> tuple[int, int]:
        """A row to read a text in, and how many of its tokens the row holds; the longest unused row goes.

        A text goes on in its own row. Where another one goes on differently, what both share is copied.
        """
        text = tuple(ids)
        # Mostly a text goes on where it was lately; else every row is looked at token by token.
        near = (row for row in reversed(self._held) if 0 <= len(text) - len(self._held[row]) <= NEAR)
        row = next((row for row in near if self._held[row] == text[: len(self._held[row])]), None)
        if row is None or not self._held[row]:
            known = {row: common_prefix(held, text) for row, held in self._held.items()}
            row = max(known, key=lambda row: (known[row], known[row] == len(self._held[row])))
            length = known[row]
        else:
            length = len(self._held[row])
        if length < len(self._held[row]):
            other, row = row, next(iter(self._held))
            if length and row != other:
                self.backend.reserve(row + 1, length)
                self.backend.restore(row, self.backend.snapshot(other, length), length)
        del self._held[row]
        self._held[row] = ()  # should the pass break off
        return row, length


def load_rad(lm: PreTrainedModel, folder: Path, native: bool = True) -> Rad:
    """A trained reward model, ready to score texts.

    Args:
        lm: the base it was trained on; stays as it is.
        native: use the compiled network where it can run this model.

    Raises:
        BadArtifact: there is none, it is of another base, or it was never calibrated.
        Unsupported: it consists of adapters, and the base is quantized.
    """
    teacher = read_teacher(folder, base_fingerprint(lm))
    if teacher.calibration is None:
        hint = "Run the command that trained it once more: it measures what is missing and trains nothing."
        raise BadArtifact(f"The reward model in {folder} was not calibrated.", hint)
    weights = teacher.weights(lm)
    dtypes = {weight.dtype for weight in weights.values()}
    # Compiled code sums in float32 whatever the weights are: as they are stored, they lose nothing and are read sooner.
    twin = _twin(lm, weights, folder)
    cast(twin, dtypes.pop() if len(dtypes) == 1 else torch.float32)
    if native and unsupported(twin, []) is None:
        backend: Backend = CpuBackend(twin, [], ROWS)
    else:
        cast(twin, lm.dtype)
        backend = TorchBackend(twin, [], ROWS)
    return Rad(backend, teacher.weight, teacher.bias, teacher.calibration)


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Weights in another dtype, and nothing else: rotary frequencies rounded to bfloat16 would move every position."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _twin(lm: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> Any:
    """The base's network with other weights, in float32, and an output of one number."""
    config = copy.deepcopy(lm.config)
    text = config.get_text_config()
    config.tie_word_embeddings = text.tie_word_embeddings = False
    with torch.random.fork_rng(devices=[]):  # what it begins with is random
        twin: Any = type(lm)(config)
        twin.set_output_embeddings(nn.Linear(text.hidden_size, 1, bias=False))
    twin.to(lm.device, torch.float32)
    try:
        left = twin.base_model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise BadArtifact(f"The reward model in {folder} does not fit its base: {error}.", "Train it again.") from error
    if missing := set(left.missing_keys) & dict(twin.base_model.named_parameters()).keys():
        raise BadArtifact(f"The reward model in {folder} lacks {min(missing)}.", "Train it again.")
    return twin.requires_grad_(False).eval()
