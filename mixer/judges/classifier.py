"""Any sequence classifier of `transformers` as a judge: one of its labels is what the text is scored for.

Candidates are read in one padded batch. A text longer than the classifier's own context is cut on the left, since the
newest words must count; that limit is the classifier's alone. Arithmetic is float32 whatever the weights are stored in:
a formula takes differences between candidates, which bfloat16 would round away. Knows nothing of formulas.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mixer.errors import BadArtifact, InvalidValue, UnknownName, Unsupported
from mixer.model.base import pick_device

NO_LIMIT = 512  # tokens, where neither model nor tokenizer names a limit
APART = ("multi_label_classification", "regression")  # each label's logit by itself
HINT = "Give a folder or hub id of a sequence classifier with safetensors and its tokenizer."


class Classifier:
    """A `mixer.judges.linear.Scorer`: the probability of one label. Text without a single letter scores 0.5.

    Args:
        model: a sequence classifier; in its configuration a padding token.
        label: number of the label.

    Attributes:
        labels: the names of all.
        context: most tokens that it reads, special ones included.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, label: int) -> None:
        self.labels, self.label = _labels(model), label
        self.context = _context(model, tokenizer)
        self._model, self._tokenizer = model.eval(), tokenizer
        self._tokenizer.truncation_side = "left"
        # The model's own padding token: by it a decoder finds the last token, and RoBERTa the positions.
        self._pad = int(model.config.get_text_config().pad_token_id)
        self._lock = threading.Lock()  # a tokenizer that truncates serves one thread at a time
        self._last: tuple[tuple[str, ...], np.ndarray] = (), np.empty(0)

    def scores_after(self, text: str, endings: Sequence[str]) -> np.ndarray:
        """Scores of `text + ending` for each ending, `(N,)` float64 in [0, 1]."""
        texts = tuple(text + ending for ending in endings)
        with self._lock:
            if self._last[0] != texts:  # a formula may ask for both poles in turn
                self._last = texts, self._scores(texts)
            return self._last[1].copy()

    def _scores(self, texts: Sequence[str]) -> np.ndarray:
        scores = np.full(len(texts), 0.5)
        if says := [row for row, text in enumerate(texts) if text.strip()]:
            logits = self._logits([texts[row] for row in says]).double()
            separate = logits.shape[1] == 1 or self._model.config.problem_type in APART
            scores[says] = (logits.sigmoid() if separate else logits.softmax(1))[:, self.label].numpy()
        return scores

    def sees_padding(self) -> bool:
        """Whether a text is read otherwise beside a longer one than alone, as some architectures do."""
        short, long = "Yes.", "Yes, and there are many more words in this one."
        return not torch.allclose(self._logits([long, short])[1], self._logits([short])[0], rtol=0, atol=1e-3)

    @torch.inference_mode()
    def _logits(self, texts: list[str]) -> torch.Tensor:
        """`(N, labels)`, in host memory."""
        # What a text spells out is letters, though it be the name of a special token.
        encoded = self._tokenizer(texts, truncation=True, max_length=self.context, split_special_tokens=True)
        rows = [torch.tensor(ids, dtype=torch.long) for ids in encoded["input_ids"]]
        ids = pad_sequence(rows, True, self._pad)
        mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0)
        device = self._model.device
        return self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float().cpu()


def load_classifier(source: str | Path, label: str | int | None = None, device: str = "cpu") -> Classifier:
    """A classifier from a folder or by hub id. Its weights are safetensors; code that comes with it is never run.

    Args:
        label: name or number of what to score; may be left out where there is one label, or of two the last is meant.

    Raises:
        BadArtifact: it is not there, not complete, or no sequence classifier.
        Unsupported: it needs code of its own or a package that is missing, or has no padding token.
        UnknownName: it has no such label.
        InvalidValue: it has several labels and none was named, or the device cannot be used.
    """
    place = pick_device(device)
    if (isinstance(source, Path) or source.startswith((".", "/", "~"))) and not Path(source).is_dir():
        raise BadArtifact(f"There is no classifier at {source}.", HINT)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except ImportError as error:
        raise Unsupported(f"The classifier {str(source)!r} needs a package: {_line(error)}.", "Install it.") from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise Unsupported(
                f"The classifier {str(source)!r} needs code of its own, which is not run.",
                "Choose one of an architecture that transformers knows.",
            ) from error
        raise BadArtifact(f"The classifier {str(source)!r} cannot be loaded: {_line(error)}", HINT) from error
    if missing := sorted(found["missing_keys"]):
        raise BadArtifact(
            f"{str(source)!r} holds no trained classifier: {missing[0]} is missing from its weights.",
            "It may be a language model or an encoder without a head; give one that was trained to classify.",
        )
    config = model.config.get_text_config()
    if config.pad_token_id is None or not 0 <= config.pad_token_id < config.vocab_size:
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id is None:
        raise Unsupported(
            f"The classifier {str(source)!r} has no padding token, so that it cannot read several texts at once.",
            "Set pad_token_id in its config.json to a token that no text holds.",
        )
    classifier = Classifier(model.to(place), tokenizer, _number(label, _labels(model), str(source)))
    if classifier.sees_padding():
        raise Unsupported(
            f"The scores of the classifier {str(source)!r} for one text depend on the texts beside it.",
            "Choose one of another architecture; BERT's and RoBERTa's relatives read every text by itself.",
        )
    return classifier


def _labels(model: Any) -> tuple[str, ...]:
    return tuple(name for _, name in sorted(model.config.id2label.items()))


def _number(label: str | int | None, labels: tuple[str, ...], source: str) -> int:
    if label is None:
        if len(labels) > 2:
            raise InvalidValue(f"{source!r} has {len(labels)} labels.", f"Name one of {', '.join(labels)[:300]}.")
        return len(labels) - 1
    if isinstance(label, int):
        if not 0 <= label < len(labels):
            raise UnknownName("label", str(label), [f"{i} ({name})" for i, name in enumerate(labels)])
        return label
    plain = [name.casefold() for name in labels]
    if label.casefold() not in plain:
        raise UnknownName("label", label, labels)
    return plain.index(label.casefold())


def _context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens of a text. RoBERTa and its like count positions from the one after their padding token's number."""
    reserved = 0
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding) and table.padding_idx is not None:
            reserved = table.padding_idx + 1
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    limits = [tokenizer.model_max_length, positions - reserved]
    known = [limit for limit in limits if 0 < limit < 10**9]  # a tokenizer that knows none says 10**30
    return int(min(known, default=NO_LIMIT))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
