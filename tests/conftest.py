import os
import signal

# Before scipy is imported: lets scikit-learn's array API check run, not skip.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification, make_regression

torch.set_num_threads(1)
# A script that runs the tests in the background has Ctrl-C ignored, for children too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def classes():
    """Three classes, 120 rows, 8 columns; float32 as nets take them."""
    X, y = make_classification(
        120, 8, n_informative=6, n_classes=3, class_sep=2.0, random_state=0
    )
    return X.astype(np.float32), y.astype(np.int64)


@pytest.fixture(scope="session")
def values():
    """Targets far from standardised, 120 rows, 8 columns."""
    X, y = make_regression(120, 8, n_informative=6, noise=1.0, random_state=0)
    return X.astype(np.float32), 1e4 + 50.0 * y
