"""Train and prune a net on a file that is larger than the memory the process may take.

The rows are written to a file first, piece by piece. Then the process limits its own
memory to less than the file's size, and learns from one chunk after the other:
``partial_fit`` trains, ``prune`` makes the net sparser in between. The sparse model
predicts the rows that were held back, straight from the memory-mapped file.

Run with ``python examples/out_of_core.py``. Half a minute; ``--megabytes`` sets another
size.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier
from sklearn_sparse_nn.runtime import SparseModel

N_FEATURES, N_CLASSES, CHUNK = 100, 5, 50_000
SPARSITIES = (0.5, 0.7, 0.8, 0.85, 0.9)  # one for each chunk, from the middle on
MIB = 2**20


def make_rows(rng, centers, n_rows):
    """Draw rows around the centers of their classes, several for each."""
    groups = rng.integers(len(centers), size=n_rows)
    noise = rng.standard_normal((n_rows, N_FEATURES), dtype=np.float32)
    return centers[groups] + noise, (groups % N_CLASSES).astype(np.int8)


def write_file(path, n_rows):
    """Write X chunk by chunk; give the labels, which are small."""
    rng = np.random.default_rng(0)
    shape = (4 * N_CLASSES, N_FEATURES)
    centers = 0.35 * rng.standard_normal(shape, dtype=np.float32)
    labels = []
    with path.open("wb") as file:
        for _ in range(0, n_rows, CHUNK):
            X, y = make_rows(rng, centers, CHUNK)
            X.tofile(file)
            labels.append(y)
    return np.concatenate(labels)


def open_rows(path):
    """Map the file into memory: its pages are read when they are looked at."""
    return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, N_FEATURES)


def limit_memory(n_bytes):
    """Let the process take no more memory of its own; mapped files are not counted.

    The limit holds what numpy and torch allocate: above it they get a MemoryError.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, hard))


def train(path, y, n_train):
    """Learn from chunk after chunk; prune between the last of them."""
    net = TabularNetClassifier((128, 128), batch_size=512, lr=2e-3)
    pruner = PrunedClassifier(net, random_state=0)
    starts = range(0, n_train, CHUNK)
    steps = dict(zip(starts[len(starts) // 2 :], SPARSITIES, strict=False))
    for start in starts:
        if start in steps:
            pruner.prune(steps[start])
        # A map of its own for each chunk: what was read leaves with it.
        X = open_rows(path)[start : start + CHUNK]
        pruner.partial_fit(X, y[start : start + CHUNK], classes=range(N_CLASSES))
        row = pruner.history_[-1]
        print(
            f"  {row['epoch']:>3} {row['phase']:>8}  sparsity {row['sparsity']:.2f}  "
            f"loss {row['train_loss']:.3f}"
        )
    return pruner


def main():
    """Write the file, train under the limit, export, and predict the whole file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=800)
    n_chunks = parser.parse_args().megabytes * 10**6 // (4 * N_FEATURES * CHUNK)
    n_rows = max(n_chunks, 4 * len(SPARSITIES)) * CHUNK
    n_train = n_rows // CHUNK * 4 // 5 * CHUNK
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "X.bin")
        y = write_file(path, n_rows)
        size = path.stat().st_size
        limit = size * 3 // 4
        limit_memory(limit)
        print(f"File {size / MIB:.0f} MiB, {n_rows} rows; limit {limit / MIB:.0f} MiB")
        start = time.perf_counter()
        pruner = train(path, y, n_train)
        print(f"Trained on {n_train} rows in {time.perf_counter() - start:.0f} s")
        print(f"Peak memory so far {peak_memory() / MIB:.0f} MiB")
        pruner.export().save(Path(folder, "model.safetensors"))
        model = SparseModel.load(Path(folder, "model.safetensors"))
        start = time.perf_counter()
        predicted = model.predict(open_rows(path))
        print(f"Predicted {n_rows} rows in {time.perf_counter() - start:.1f} s")
        right = predicted == y
        print(
            f"Sparsity {pruner.sparsity_:.2f}; accuracy {right[:n_train].mean():.3f} "
            f"on rows seen, {right[n_train:].mean():.3f} on others"
        )
        show_limit(path)


def peak_memory():
    """Give the most bytes that were in memory at once, pages of mapped files too."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show_limit(path):
    """Show that the limit is real."""
    try:
        np.array(open_rows(path))
    except MemoryError:
        print("To load the whole file is a MemoryError here")
    else:
        raise SystemExit("The file was loaded beyond the limit")


if __name__ == "__main__":
    main()
