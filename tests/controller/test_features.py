"""The tables of features."""

import numpy as np
import pytest

from controller.granularity import GRANULARITIES
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


def test_each_feature_stands_in_its_place_whatever_is_computed_together():
    def feature(name, scale, column):
        return Feature(name=name, group="", unit="", scale=scale, meaning="", column=column)

    eighths = counted(1 / 8, "1/8 each")
    table = FeatureTable(
        1,
        feature("a", eighths, lambda seen: seen),
        feature("b", FLAG, lambda seen: seen > 8),
        feature("c", QUOTIENT, lambda seen: (seen, seen - 8)),
        feature("d", eighths, lambda seen: seen * 2),
        feature("e", KNOWN, lambda seen: np.where(seen > 8, np.nan, seen)),
    )
    seen = np.array([8.0, 16.0])
    expected = np.array([[1, 0, 8, 2, 8], [2, 1, 2, 4, 0]], np.float32)
    np.testing.assert_array_equal(table.observe(seen, 2, slice(None), None), expected)
    out = np.zeros((3, 5), np.float32)
    table.observe(seen, 2, np.array([2, 0]), out)
    np.testing.assert_array_equal(out[[2, 0]], expected)
    assert not out[1].any()
