"""TfIdfVectorizer: how often runs of integers from a pool stand in a row."""

from __future__ import annotations

from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.errors import ModelError
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.indexing import scatter_add
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import stack


@operator("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(call: Call) -> Tensor:
    """TfIdfVectorizer over integers: counts (TF), weights where there are any (IDF), or both."""
    x = call.tensor(0)
    rows = x.reshape(1, -1) if x.ndim < 2 else x
    pool = np.array(call.integers("pool_int64s"), np.int64)
    starts = [*call.integers("ngram_counts"), len(pool)]
    indexes = np.array(call.integers("ngram_indexes"), np.int64)
    least, most = call.integer("min_gram_length"), call.integer("max_gram_length")
    mode, skips = call.string("mode"), call.integer("max_skip_count")
    if mode not in ("TF", "IDF", "TFIDF") or not 1 <= least <= most < len(starts) or skips < 0:
        raise ModelError(f"mode {mode!r}, runs of {least} to {most}, {len(starts) - 1} pools")
    size = int(indexes.max(initial=-1)) + 1
    total: Any = None
    number = 0
    for n in range(1, most + 1):
        runs = pool[starts[n - 1] : starts[n]].reshape(-1, n)
        places = indexes[number : number + len(runs)]
        number += len(runs)
        if n < least or not len(runs):
            continue
        hits = _counts(call, rows, runs, skips if n > 1 else 0)
        part = scatter_add(places, hits.transpose(), size).transpose()
        total = part if total is None else total.add(part)
    if total is None:
        total = call.constant(np.zeros((rows.shape[0], size), np.int64))
    result = total.cast(dtypes.float32) if mode != "IDF" else total.greater(0).cast(dtypes.float32)
    if mode != "TF" and call.has_attribute("weights"):
        weights = np.zeros(size, np.float32)
        weights[indexes] = np.array(call.reals("weights"), np.float32)
        result = result.mul(call.constant(weights))
    return result if x.ndim == 2 else result.reshape(-1)  # type: ignore[no-any-return]


def _counts(call: Call, rows: Tensor, runs: np.ndarray, skips: int) -> Tensor:
    """Return how often each run stands in each row, up to `skips` elements apart."""
    wanted = call.constant(runs, rows.dtype)
    n, length = runs.shape[1], rows.shape[1]
    total: Any = None
    for skip in range(skips + 1):
        last = length - (n - 1) * (skip + 1)
        if last < 1:
            break
        parts = [rows[:, i * (skip + 1) : i * (skip + 1) + last] for i in range(n)]
        same = stack(parts, -1).expand_dims(2).equal(wanted).all(-1)
        total = same.sum(1) if total is None else total.add(same.sum(1))
    if total is None:
        return call.constant(np.zeros((rows.shape[0], len(runs)), np.int64))
    return total  # type: ignore[no-any-return]
