"""Search the sparsity of a neural net as one searches any other hyper-parameter.

First digits: a Pipeline with a PrunedClassifier, and a GridSearchCV over how much is
pruned and when. Then house prices: a PrunedRegressor. It prints what pruning costs and
saves, shows the weights as scipy.sparse arrays, and plots score against sparsity.

Run with ``make demo``, or ``python examples/quickstart.py``. Two cores, two minutes.
"""

import os
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_digits
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)

OUTPUT = Path(__file__).parent / "output"
DATA = Path(os.environ.get("SPARSE_NN_DATA", "../shared/data"))
SPARSITIES = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98]


def summary(name, pruner, asked, dense_score, sparse_score):
    """Make one row of the table that is printed at the end."""
    report = pruner.report()
    return {
        "data": name,
        "dense score": round(dense_score, 4),
        "sparse score": round(sparse_score, 4),
        "sparsity asked": asked,
        "got": round(pruner.sparsity_, 4),
        "non-zeros": pruner.n_nonzero_,
        "bytes dense": report["bytes_dense"].sum(),
        "bytes sparse": report["bytes_csr"].sum(),
    }


def digits():
    """Grid-search sparsity and schedule on the digits."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=0)
    pipe = make_pipeline(
        StandardScaler(),
        PrunedClassifier(TabularNetClassifier(random_state=0), random_state=0),
    )
    search = GridSearchCV(
        pipe,
        {
            "prunedclassifier__sparsity": SPARSITIES,
            "prunedclassifier__schedule": ["oneshot", "cubic"],
        },
        cv=3,
        n_jobs=2,
        # The sparsest net whose score is within one point of the best.
        refit=lambda results: sparsest_within(results, 0.01),
    )
    search.fit(X, y)
    dense = make_pipeline(StandardScaler(), TabularNetClassifier(random_state=0))
    dense_score = dense.fit(X, y).score(X_test, y_test)
    pruner = search.best_estimator_[-1]
    asked = search.best_params_["prunedclassifier__sparsity"]
    row = summary("digits", pruner, asked, dense_score, search.score(X_test, y_test))
    return search, row


def sparsest_within(results, tolerance):
    """Choose the sparsest candidate whose mean score is near the best."""
    scores = results["mean_test_score"]
    sparsity = np.array(results["param_prunedclassifier__sparsity"], dtype=float)
    near = scores >= scores.max() - tolerance
    return int(np.argmax(np.where(near, sparsity + scores / 1000, -1)))


def house_prices():
    """Prune a regressor on California housing, or on diabetes without that file."""
    path = DATA / "california_housing.csv"
    if path.exists():
        name = "California housing"
        X = pd.read_csv(path)
        y = X.pop("median_house_value")
        columns = make_column_transformer(
            (OneHotEncoder(sparse_output=False), ["ocean_proximity"]),
            remainder=make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
        )
    else:
        name = "diabetes"
        X, y = load_diabetes(return_X_y=True, as_frame=True)
        columns = StandardScaler()
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    # A tenth of the rows decides when the dense phase and the fine-tuning stop.
    net = TabularNetRegressor(early_stopping=True, random_state=0)
    dense = make_pipeline(columns, net).fit(X, y)
    sparse = make_pipeline(columns, PrunedRegressor(net, sparsity=0.95, random_state=0))
    sparse.fit(X, y)
    scores = dense.score(X_test, y_test), sparse.score(X_test, y_test)
    return summary(name, sparse[-1], 0.95, *scores)


def plot(search, path):
    """Plot the cross-validated score against the sparsity."""
    results = pd.DataFrame(search.cv_results_)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for schedule, rows in results.groupby("param_prunedclassifier__schedule"):
        sparsity = rows["param_prunedclassifier__sparsity"].astype(float)
        axes.errorbar(
            -np.log10(1 - sparsity),  # every tenfold cut in weights is as wide
            rows["mean_test_score"],
            yerr=rows["std_test_score"],
            marker="o",
            capsize=3,
            label=f"schedule={schedule!r}",
        )
    ticks = np.array(SPARSITIES)
    axes.set_xticks(-np.log10(1 - ticks), [f"{tick:.0%}" for tick in ticks])
    axes.set(xlabel="sparsity", ylabel="accuracy, 3 folds", title="Digits")
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    """Run both, print the table and the weights, save the plot."""
    start = time.perf_counter()
    OUTPUT.mkdir(exist_ok=True)
    print("Digits: GridSearchCV over 6 sparsities x 2 schedules, 3 folds ...")
    search, row = digits()
    print(f"  chosen: {search.best_params_}")
    print("House prices: one PrunedRegressor ...")
    table = pd.DataFrame([row, house_prices()]).set_index("data")
    print("\nScores are accuracy (digits) and R2 (prices) on held-out rows.")
    print(table.astype(object).T.to_string())

    print("\nWhat transform() gives for the chosen digits net:")
    for name, weight in search.best_estimator_[-1].transform().items():
        share = weight.nnz / np.prod(weight.shape)
        print(
            f"  {name:10} {type(weight).__name__} {weight.shape!s:12} {weight.dtype}  "
            f"{weight.nnz:6} non-zeros ({share:.1%})"
        )
    print("\nand report():")
    print(search.best_estimator_[-1].report().to_string())
    path = OUTPUT / "score_against_sparsity.png"
    plot(search, path)
    print(f"\nPlot: {path.relative_to(Path(__file__).parent.parent)}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
