"""What several seeds of one training amount to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, trim_mean

Floats = NDArray[np.float64]

_RESAMPLES = 2000


def summarise_seeds(utility: Floats) -> dict[str, Any]:
    """Mean and interquartile mean of utility over seeds and prices, with 95% intervals.

    A controller of one seed plays all prices, so its utilities go up and down together:
    `interval` resamples whole seeds. `stratified` resamples the seeds of each price by
    themselves, as rliable does for trainings that are independent from task to task.

    Source: Agarwal et al. 2021 (arXiv 2108.13264), sections 4.1 and 4.3.

    Args:
        utility: (S, P) by seed and price.

    Returns:
        `utility`, the same; from two seeds on, by `mean` and `iqm`, also `value`, `interval`
        and `stratified`.
    """
    if len(utility) < 2:
        return {"utility": utility.tolist()}
    by_price = tuple(utility.T)
    return {"utility": utility.tolist()} | {
        name: {
            "value": float(statistic(*by_price)),
            "interval": _interval(by_price, statistic, whole_seeds=True),
            "stratified": _interval(by_price, statistic, whole_seeds=False),
        }
        for name, statistic in (("mean", _mean), ("iqm", _interquartile_mean))
    }


def _mean(*columns: Floats, axis: int = -1) -> Any:
    return np.mean(np.concatenate(columns, axis), axis)


def _interquartile_mean(*columns: Floats, axis: int = -1) -> Any:
    return trim_mean(np.concatenate(columns, axis), 0.25, axis)


def _interval(
    by_price: tuple[Floats, ...], statistic: Any, *, whole_seeds: bool
) -> tuple[float, float]:
    result = bootstrap(
        by_price,
        statistic,
        paired=whole_seeds,
        method="percentile",
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)
