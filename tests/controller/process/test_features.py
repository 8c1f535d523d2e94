"""The tables of features."""

import numpy as np
import pytest

from controller.granularity import GRANULARITIES
from controller.process.episodes import Episodes
from controller.process.features import FLAG, KNOWN, QUOTIENT, Feature, FeatureTable, counted

DIGESTS = {("attempts", 3): "653c5661879694ca", ("segments", 1): "18fe9df5bb1a5339"}
"""Of the tables by version. Another digest needs another version: policies are trained anew."""


@pytest.mark.parametrize("granularity", GRANULARITIES.values(), ids=GRANULARITIES)
def test_a_changed_table_has_another_version(granularity):
    table = granularity.table
    assert table.digest == DIGESTS[granularity.name, table.version]


@pytest.mark.parametrize("granularity", GRANULARITIES.values(), ids=GRANULARITIES)
def test_every_feature_is_named_once_explained_and_in_one_group(granularity):
    table = granularity.table
    assert len(set(table.names)) == len(table)
    assert all(f.meaning and (f.unit or f.scale is FLAG) for f in table.features)
    assert sorted(sum(table.groups.values(), ())) == sorted(table.names)


def test_each_feature_stands_in_its_place_whatever_is_computed_together(process):
    def feature(name, scale, column):
        return Feature(name, "", "", scale, column, "")

    eighths = counted(1 / 8, "1/8 each")
    table = FeatureTable(
        1,
        feature("a", eighths, "spent"),
        feature("b", FLAG, lambda seen: seen.e.spent > 8),
        feature("c", QUOTIENT, ("spent", lambda seen: seen.e.spent - 8)),
        feature("d", eighths, lambda seen: seen.e.spent * 2),
        feature("e", KNOWN, lambda seen: np.where(seen.e.spent > 8, np.nan, seen.e.spent)),
    )
    episodes = Episodes(process, 3, 2)
    episodes.spent[:] = 16.0, 0.0, 8.0
    expected = np.array([[2, 1, 2, 4, 0], [0, 0, 0, 0, 0], [1, 0, 8, 2, 8]], np.float32)
    np.testing.assert_array_equal(table.observe(episodes), expected)
    np.testing.assert_array_equal(table.observe(episodes, np.array([2, 0])), expected[[2, 0]])
    out = np.zeros((3, 5), np.float32)
    table.observe(episodes, np.array([2, 0]), out)
    np.testing.assert_array_equal(out[[2, 0]], expected[[2, 0]])
    assert not out[1].any()
