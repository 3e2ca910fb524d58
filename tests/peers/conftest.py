"""Real digits for the comparisons with public implementations, which `tox -e peers` installs."""

from __future__ import annotations

import pytest
from torch import Tensor

from xbench import CLASSIFIERS, DATASETS, Classifier


@pytest.fixture
def digits() -> tuple[Classifier, Tensor, Tensor, list[str]]:
    """The shipped classifier in float64, 5 digits, their predicted classes and their names."""
    classifier = CLASSIFIERS.make("mnist-cnn").load().double()
    subset = DATASETS.make("mnist").load()
    names = list(subset.ids[:5])
    x = subset.read(names)[0].double()
    return classifier, x, classifier.probabilities(x).argmax(1), names
