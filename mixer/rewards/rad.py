"""RAD at decode time: a trained reward model scores all candidates for the next token in one forward pass.

    r(v | x) = clamp(<h(x v), w> + b, 0, 1)        h the final state after the text x and the token v

The reward model is the base's network with its own weights. The candidates are alternatives at one position, so they
share the text's keys and values. These stay in the KV cache from token to token. This module knows nothing of
distributions, sliders or training.

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

from mixer.adapters.fingerprint import base_fingerprint, is_same_base
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
ROWS = 32  # rows of the KV cache; each holds one text
REACH = 20  # the paper's k
NEAR = 8  # a row is found without comparing all rows if its text has grown by at most so many tokens since


@dataclass(frozen=True)
class Teacher:
    """A reward model on disk.

    Attributes:
        backbone: weights by their names in the base's network, or, with `lora`, the matrices of a LoRA adapter.
        weight: output weight, `(D,)`.
        bias: output bias.
        calibration: None if it was not measured.
    """

    backbone: Mapping[str, Tensor]
    weight: Tensor
    bias: float
    lora: bool
    calibration: HeadCalibration | None

    def weights(self, lm: PreTrainedModel) -> dict[str, Tensor]:
        """All weights of the reward model by their names in the base's network.

        Raises:
            Unsupported: the reward model is a LoRA adapter, and the base's weights are quantized.
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
    """Read the files of a trained reward model.

    Args:
        fingerprint: of the loaded base.

    Raises:
        BadArtifact: the files are missing or damaged, or the reward model belongs to another base.
    """
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        backbone = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
        lora = bool(report["made_from"]["config"]["lora"])
        trained_on, record = report["base_fingerprint"], report.get("calibration")
        calibration = read_calibration(record) if record else None
        teacher = Teacher(backbone, tensors["weight"].float(), float(tensors["bias"]), lora, calibration)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BadArtifact(f"There is no reward model in {folder}: {error}.", HINT) from error
    if not is_same_base(trained_on, fingerprint):
        raise BadArtifact(f"The reward model in {folder} was trained on another base model.", "Train it again.")
    return teacher


class Rad:
    """A reward model that follows texts as they grow. Calls from several threads run one after another.

    Args:
        backend: computes the reward model, with `ROWS` rows. Its logits are not used.
        weight: output weight, `(D,)`.
        bias: output bias.

    Attributes:
        calibration: of the clamped rewards of the `reach` likeliest tokens.
        reach: how many of the likeliest tokens it should score.
    """

    reach = REACH

    def __init__(self, backend: Backend, weight: Tensor, bias: float, calibration: HeadCalibration) -> None:
        self.calibration = calibration
        self.backend, self._weight, self._bias = backend, weight, bias
        self._lock = threading.Lock()
        # The tokens whose keys and values each row holds; the least recently used row is first.
        self._cached: dict[int, tuple[int, ...]] = dict.fromkeys(range(ROWS), ())
        for row in self._cached:
            backend.gate[row] = ()

    def rewards(self, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Rewards of a text with each of these tokens appended, `(k,)` float32 in [0, 1], by one forward pass."""
        n, k = len(ids), len(tokens)
        with self._lock:
            row, length = self._row_for(ids)
            positions = [*range(length, n), *[n] * k]
            wanted = range(n - length, n - length + k)
            places = range(length, n + k)
            self.backend.forward([*ids[length:], *tokens], [row] * len(positions), positions, wanted, places)
            self._cached[row] = tuple(ids)
            return self._scores()

    def _scores(self) -> Tensor:
        """Rewards of the last pass's wanted tokens, `(k,)`; float32 for any dtype of the weights."""
        states = self.backend.states.cpu()
        return (states @ self._weight + self._bias).clamp(0, 1)

    def _row_for(self, ids: Sequence[int]) -> tuple[int, int]:
        """A row for a text, and how many of the text's tokens it has cached. The row is marked as empty until the
        pass is done.

        A text continues in its own row. If the row's text goes on differently, the shared prefix is copied to the least
        recently used row.
        """
        text = tuple(ids)
        # Usually a text continues in a row that was used a moment ago. Otherwise all rows are compared token by token.
        recent = (row for row in reversed(self._cached) if 0 <= len(text) - len(self._cached[row]) <= NEAR)
        row = next((row for row in recent if self._cached[row] == text[: len(self._cached[row])]), None)
        if row is None or not self._cached[row]:
            shared = {row: common_prefix(cached, text) for row, cached in self._cached.items()}
            row = max(shared, key=lambda row: (shared[row], shared[row] == len(self._cached[row])))
            length = shared[row]
        else:
            length = len(self._cached[row])
        if length < len(self._cached[row]):
            source, row = row, next(iter(self._cached))
            if length and row != source:
                self.backend.reserve(row + 1, length)
                self.backend.restore(row, self.backend.snapshot(source, length), length)
        del self._cached[row]
        self._cached[row] = ()  # stays so if the pass raises
        return row, length


def load_rad(lm: PreTrainedModel, folder: Path, native: bool = True) -> Rad:
    """Load a trained reward model.

    Args:
        lm: the base that it was trained on; it is not changed.
        native: use the compiled backend if it can run this model.

    Raises:
        BadArtifact: there is no reward model, it belongs to another base, or it was not calibrated.
        Unsupported: it is a LoRA adapter, and the base is quantized.
    """
    teacher = read_teacher(folder, base_fingerprint(lm))
    if teacher.calibration is None:
        hint = "Run the command that trained it once more: it measures what is missing and trains nothing."
        raise BadArtifact(f"The reward model in {folder} was not calibrated.", hint)
    weights = teacher.weights(lm)
    dtypes = {weight.dtype for weight in weights.values()}
    # Compiled code sums in float32 for every dtype of weights. Weights in their stored dtype lose nothing and are read
    # faster.
    network = _network(lm, weights, folder)
    cast(network, dtypes.pop() if len(dtypes) == 1 else torch.float32)
    if native and unsupported(network, []) is None:
        backend: Backend = CpuBackend(network, [], ROWS)
    else:
        cast(network, lm.dtype)
        backend = TorchBackend(network, [], ROWS)
    return Rad(backend, teacher.weight, teacher.bias, teacher.calibration)


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters, and no buffers: rotary frequencies rounded to bfloat16 would shift every position."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _network(lm: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> Any:
    """The base's network with the reward model's weights, in float32, and an output of one number."""
    config = copy.deepcopy(lm.config)
    text = config.get_text_config()
    config.tie_word_embeddings = text.tie_word_embeddings = False
    with torch.random.fork_rng(devices=[]):  # the initial weights are random
        network: Any = type(lm)(config)
        network.set_output_embeddings(nn.Linear(text.hidden_size, 1, bias=False))
    network.to(lm.device, torch.float32)
    try:
        result = network.base_model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise BadArtifact(f"The reward model in {folder} does not fit its base: {error}.", "Train it again.") from error
    if missing := set(result.missing_keys) & dict(network.base_model.named_parameters()).keys():
        raise BadArtifact(f"The reward model in {folder} lacks {min(missing)}.", "Train it again.")
    return network.requires_grad_(False).eval()
