"""Take a pruned net to where there is no torch.

A Pipeline (imputer, scaler, pruned net) is fitted, exported into one model, saved to
one file, and loaded by a second process that cannot import torch or scikit-learn. Both
agree.

Run with ``python examples/deploy.py``. A minute.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_sparse_nn import PrunedClassifier, export_pipeline

SERVER = """
import sys, time
for name in ("torch", "sklearn", "skorch"):
    sys.modules[name] = None  # importing one now fails
start = time.perf_counter()
import numpy as np
from sklearn_sparse_nn.runtime import SparseModel
model = SparseModel.load(sys.argv[1])
X = np.load(sys.argv[2])
proba = model.predict_proba(X)
ready = time.perf_counter() - start
np.save(sys.argv[3], proba)
start = time.perf_counter()
for row in X:
    model.predict_proba(row[None])
each = (time.perf_counter() - start) / len(X)
print(f"  ready in {ready:.2f} s, then {each * 1e6:.1f} us for a single row")
"""


def main():
    """Fit, export, save, and predict in a process of its own."""
    X, y = load_digits(return_X_y=True)
    X[::7, 10] = np.nan  # something for the imputer
    X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=0)
    pruner = PrunedClassifier(sparsity=0.98, random_state=0)
    pipe = make_pipeline(SimpleImputer(), StandardScaler(), pruner).fit(X, y)
    model = export_pipeline(pipe)
    print(
        f"Accuracy {pipe.score(X_test, y_test):.4f}. Exported, with what is dead gone:"
    )
    print(model)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("model.safetensors", "X.npy", "p.npy")]
        model.save(paths[0])
        np.save(paths[1], X_test.astype(np.float32))
        size = paths[0].stat().st_size / 1024
        print(f"\nSaved in {size:.1f} KiB. A process without torch:")
        subprocess.run([sys.executable, "-c", SERVER, *map(str, paths)], check=True)
        served = np.load(paths[2])
    start = time.perf_counter()
    expected = pipe.predict_proba(X_test)
    elapsed = (time.perf_counter() - start) / len(X_test)
    print(
        f"  the Pipeline here takes {elapsed * 1e6:.1f} us for a row of {len(X_test)}"
    )
    print(f"  largest difference of a probability: {abs(served - expected).max():.1e}")


if __name__ == "__main__":
    main()
