"""The command line and the little trace set of trainings."""

from tests.training.conftest import allot, environment, few

__all__ = ["allot", "environment", "few"]
