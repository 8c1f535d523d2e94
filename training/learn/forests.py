"""Extremely randomised trees, for read-outs and for rules that are learnt."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.process.lockstep import Floats
from training.learn.threads import num_threads

NUM_TREES = 100


def grow(
    features: NDArray[np.float32], targets: Floats, most: int | None = None, **settings: Any
) -> Iterator[tuple[Any, NDArray[np.int64]]]:
    """Trees of a forest, and how often each was shown each of Q questions, (Q,).

    Of features (Q, F) they tell targets (Q, K). Each is shown `most` questions, Q by default, drawn
    with repetition. They are those of scikit-learn's `ExtraTreesRegressor(bootstrap=True,
    random_state=0)` with the same settings, which takes longer to copy its settings for each tree
    than a few hundred questions take to grow it. They grow side by side, on `num_threads` threads.

    Source: Geurts et al. 2006, "Extremely randomized trees".
    """
    from sklearn import config_context
    from sklearn.tree import ExtraTreeRegressor

    features = np.ascontiguousarray(features, np.float32)
    targets, count = np.ascontiguousarray(targets, np.float64), len(features)

    def grown(seed: int) -> tuple[Any, NDArray[np.int64]]:
        drawn = np.random.RandomState(seed).randint(0, count, most or count)
        shown = np.bincount(drawn, minlength=count)
        tree = ExtraTreeRegressor(random_state=seed, **settings)
        with config_context(assume_finite=True, skip_parameter_validation=True):
            tree.fit(features, targets, sample_weight=shown, check_input=False)
        return tree, shown

    seeds = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=NUM_TREES)
    with ThreadPoolExecutor(num_threads()) as pool:
        yield from pool.map(grown, seeds.tolist())
