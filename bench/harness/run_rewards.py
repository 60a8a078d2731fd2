"""The desk steered by rewards, in a worker process.

Beside the methods of the desk it has two that only serve as a comparison: every head as a product with the whole
vocabulary, and a reward model that scores one token after another. The references are plain torch over whole texts.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from mixer.adapters.fingerprint import base_fingerprint
from mixer.decoding.reference import first_logprobs
from mixer.decoding.session import Session
from mixer.desk import Desk
from mixer.model.model import SCRATCH
from mixer.rewards.controller import POLE_NATS, PreparedSteering, RewardController, SteeredLogits
from mixer.rewards.files import calibration_record
from mixer.rewards.heads import HeadCalibration, advantage, fused_matrix, likely
from mixer.rewards.rad import REPORT, WEIGHTS, Rad
from mixer.rewards.reference import steer_logprobs
from mixer.values.sampling import SamplingParams
from mixer.values.steering import Steering

TREE, SEQUENTIAL, COMPARED = "tree", "sequential", "compared"
SPREAD = 0.15  # standard deviation of the rewards of a random output layer
FLOOR = -30.0  # log-probabilities below this value count as this value


class RewardsRunner:
    """A desk with reward heads, and a reward model under the names `TREE`, `SEQUENTIAL` and `COMPARED`.

    Args:
        teacher: folder of a trained reward model; if None, one with a random output layer and the same cost is made.
    """

    def __init__(self, base: str, anchors: str, dtype: str, threads: int, teacher: str | None) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self.desk = Desk.load(base, anchors, device="cpu", dtype=dtype, auto_fold=False)
        # Every text has its full length. The end token is not barred: it may be the only token that RAD's cut leaves.
        self.desk.model.eos_ids = frozenset()
        self.controller = self.desk.catalog.controller
        with tempfile.TemporaryDirectory(prefix="mixer-bench-") as folder:
            self.desk.add_reward(TREE, teacher or make_teacher(self.desk, Path(folder)))
        rad: Any = self.controller.models[TREE]
        self._compared = ComparedRad(rad)
        self.controller.models[SEQUENTIAL], self.controller.models[COMPARED] = SequentialRad(rad), self._compared
        self._separate_heads = SeparateHeads(self.controller.heads, self.desk.model.embedding.float())

    def facts(self) -> dict[str, Any]:
        """Version of torch, most tokens of a text, names of heads, size of the vocabulary and of the final state."""
        desk = self.desk
        vocab, size = desk.model.embedding.shape
        return {
            "torch": torch.__version__,
            "context": desk.context,
            "heads": list(self.controller.heads),
            "vocab": vocab,
            "size": size,
        }

    def write(
        self, prompts: Sequence[str], tokens: int, seed: int, steering: Mapping[str, Any], separate: bool = False
    ) -> dict[str, Any]:
        """One text for each prompt, all in lockstep: seconds of each step after the first, and mean nats a token.

        Args:
            steering: arguments of `Steering`. separate: steer by `SeparateHeads`.
        """
        sessions = [self._session(p, tokens, seed + row, steering, separate) for row, p in enumerate(prompts)]
        times = [perf_counter() for _ in self.desk.lockstep(*sessions)]
        nats = sum(session.stats.nats for session in sessions) / len(sessions)
        return {"steps": [after - before for before, after in pairwise(times)], "nats": nats}

    def at_rest(self, prompt: str, tokens: int, seed: int, steering: Mapping[str, Any]) -> float:
        """Largest difference of a log-probability from the text without rewards; infinite if the texts differ."""
        plain = list(self._session(prompt, tokens, seed, {}))
        rest = list(self._session(prompt, tokens, seed, steering))
        if [step.token_id for step in rest] != [step.token_id for step in plain]:
            return math.inf
        return max(abs(a.logprob - b.logprob) for a, b in zip(rest, plain, strict=True))

    def by_heads(
        self, prompt: str, tokens: int, seed: int, steering: Mapping[str, Any], separate: bool = False
    ) -> dict[str, float]:
        """Compare a text steered by heads with the reference.

        Returns:
            `off`: largest difference of a log-probability, over the whole vocabulary at the first token and over the
            tokens of the text. `nats`: the most of one step.
        """
        session = self._session(prompt, tokens, seed, steering, separate)
        expected = self._expected(session.prompt_ids, 1, Steering(**steering), 1.0, separate)[0]
        off = float((first_logprobs(session).clamp(FLOOR) - expected.clamp(FLOOR)).abs().max())
        steps = list(session)
        ids = [*session.prompt_ids, *session.token_ids[:-1]]
        along = self._expected(ids, len(steps), Steering(**steering), session.params.temperature, separate)
        for step, row in zip(steps, along, strict=True):
            off = max(off, abs(step.logprob - float(row[step.token_id])))
        return {"off": off, "nats": max(step.nats for step in steps)}

    def by_model(self, prompt: str, tokens: int, seed: int, steering: Mapping[str, Any]) -> dict[str, float]:
        """Compare rewards in one pass with rewards in a pass a token, over all steps of a text that `COMPARED` steers.

        Returns:
            `off`: largest difference of a reward. `inside`: share of rewards between 0 and 1, both excluded.
        """
        self._compared.reset()
        list(self._session(prompt, tokens, seed, steering))
        return {"off": self._compared.off, "inside": self._compared.inside / max(1, self._compared.asked)}

    def _session(
        self, prompt: str, tokens: int, seed: int, steering: Mapping[str, Any], separate: bool = False
    ) -> Session:
        params = SamplingParams(max_new_tokens=tokens, seed=seed)
        session = self.desk.session(prompt, params=params, draft="off", steering=Steering(**steering))
        if separate:
            session.prompted = replace(session.prompted, controller=self._separate_heads)
        return session

    @torch.inference_mode()
    def _expected(
        self, ids: Sequence[int], last: int, steering: Steering, temperature: float, fused: bool = False
    ) -> Tensor:
        """Log-probabilities at temperature 1 after each of the last `last` tokens of a text, `(last, V)`.

        They follow the definitions of `mixer.rewards.heads`, in plain torch.
        """
        model = self.desk.model
        with model.lock:
            model.backend.reserve(1, len(ids))
            wanted = range(len(ids) - last, len(ids))
            logits = model.backend.forward(ids, [SCRATCH] * len(ids), range(len(ids)), wanted)
            states = model.backend.states
        rewards = [self.controller.heads[name] for name in steering.positions]
        positions = list(steering.positions.values())
        if fused or steering.fused:
            strengths = [r.fused_strength(position, POLE_NATS) for r, position in zip(rewards, positions, strict=True)]
            matrix = fused_matrix([reward.head for reward in rewards], strengths)
            return torch.log_softmax(states @ matrix.T @ self._embedding.T, -1)
        before = torch.log_softmax(logits / temperature, -1)
        probs = torch.where(likely(before, steering.reach), before.exp(), 0.0)
        bias = torch.zeros_like(before)
        for reward, position in zip(rewards, positions, strict=True):
            measured = reward.calibration
            values = reward.head.rewards(states, self._embedding)
            bias += position * measured.betas[POLE_NATS] * advantage(values, probs, measured.sigma, measured.clip)
        budget = math.inf if steering.budget is None else steering.budget
        after = steer_logprobs(before, bias, budget, steering.reach, cut=steering.cut)
        return torch.log_softmax(temperature * after, -1)

    @cached_property
    def _embedding(self) -> Tensor:
        return self.desk.model.embedding.float()


class SeparateHeads(RewardController):
    """A controller that computes the rewards of all tokens for each head and adds them to the logits.

    It gives the same distribution as fused heads, and costs a product with the whole vocabulary for each head.
    """

    def steer(
        self,
        logits: Tensor,
        state: Tensor,
        prepared: PreparedSteering,
        temperature: float = 1.0,
        ids: Sequence[int] = (),
        plain: Tensor | None = None,
        origin: Tensor | None = None,
    ) -> SteeredLogits:
        """As `RewardController`, without clip and budget."""
        for name in prepared.heads:
            rewards = self.heads[name].head.rewards(state, self._embedding)
            logits = logits + self.heads[name].fused_strength(prepared.steering.positions[name], POLE_NATS) * rewards
        return SteeredLogits(logits)


class SequentialRad:
    """A reward model that scores one token after another, as the code of the paper does."""

    def __init__(self, model: Rad) -> None:
        self.model, self.calibration, self.reach = model, model.calibration, model.reach

    def rewards(self, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Rewards of `tokens` after a text, `(k,)`: a pass for each token; the text's keys and values are kept."""
        return torch.cat([torch.zeros(0), *(self.model.rewards(ids, [token]) for token in tokens)])


class ComparedRad(SequentialRad):
    """A reward model that computes all rewards in both ways and notes the largest difference between them.

    Attributes:
        off: the largest difference. inside: number of rewards between 0 and 1, both excluded. asked: number of rewards.
    """

    off, inside, asked = 0.0, 0, 0

    def reset(self) -> None:
        """Set all counts to zero."""
        self.off, self.inside, self.asked = 0.0, 0, 0

    def rewards(self, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Rewards of `tokens` after a text, `(k,)`; see `Rad.rewards`."""
        found = self.model.rewards(ids, tokens)
        self.off = max(self.off, float((found - super().rewards(ids, tokens)).abs().max()))
        self.inside += int(((found > 0) & (found < 1)).sum())
        self.asked += len(tokens)
        return found


def make_teacher(desk: Desk, folder: Path) -> Path:
    """A reward model with the weights of the base, in bfloat16 as trained ones have, and a random output layer.

    Its rewards mean nothing; it costs the same as a trained one. Returns `folder`.
    """
    lm, model = desk.base_model, desk.model
    _, state = model.read(model.encode("Once upon a time"), (0.0,) * len(desk.anchors))
    generator = torch.Generator().manual_seed(0)
    weight = SPREAD * torch.randn(state.shape, generator=generator) / state.norm()
    network: Any = lm.base_model
    tensors = {f"backbone.{name}": w.detach().bfloat16().contiguous() for name, w in network.named_parameters()}
    save_file(tensors | {"weight": weight, "bias": torch.tensor(0.5)}, folder / WEIGHTS)
    record = {
        "made_from": {"config": {"lora": 0}},
        "base_fingerprint": base_fingerprint(lm),
        "calibration": calibration_record(HeadCalibration(SPREAD, 1 / SPREAD, {0.1: 0.5, POLE_NATS: 1.0}, {})),
    }
    (folder / REPORT).write_text(json.dumps(record), encoding="utf-8")
    return folder
