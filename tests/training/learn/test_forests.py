"""Trees that are grown one by one are those of scikit-learn's forest."""

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor

from training.learn.forests import NUM_TREES, grow


@pytest.mark.parametrize("most", [None, 30])
@pytest.mark.parametrize("settings", [{"max_leaf_nodes": 8}, {"min_samples_leaf": 3}])
def test_trees_and_what_they_were_shown_are_those_of_a_forest(most, settings):
    rng = np.random.default_rng(0)
    features, targets = rng.random((40, 12)).astype(np.float32), rng.random((40, 2))
    settings = {"max_features": 0.5, **settings}
    forest = ExtraTreesRegressor(
        NUM_TREES, bootstrap=True, oob_score=True, random_state=0, max_samples=most, **settings
    ).fit(features, targets)
    held, times = np.zeros((40, 2)), np.zeros((40, 1))
    for (tree, shown), theirs in zip(
        grow(features, targets, most, **settings), forest.estimators_, strict=True
    ):
        for name in ("feature", "threshold", "value", "children_left"):
            np.testing.assert_array_equal(getattr(tree.tree_, name), getattr(theirs.tree_, name))
        assert shown.sum() == (most or 40)
        held[shown == 0] += tree.predict(features[shown == 0])
        times[shown == 0] += 1
    np.testing.assert_array_equal(held / times, forest.oob_prediction_)
