"""Real data sets for the benchmarks, from a folder or from OpenML.

``SPARSE_NN_DATA`` names the folder, ``../shared/data`` is the default. A set that is
not there is fetched from OpenML.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import fetch_openml, load_digits
from sklearn.model_selection import train_test_split

FOLDER = Path(os.environ.get("SPARSE_NN_DATA", "../shared/data"))
NAMES = ("digits", "letter", "adult", "california", "higgs")


@dataclass
class Data:
    """Numeric rows and targets, split once by a seed (or as published)."""

    name: str
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    regression: bool = False


def load(name: str, seed: int = 0) -> Data:
    """Load a set; categorical columns become indicator columns."""
    X, y, n_published = globals()[f"_{name}"]()
    X = X.to_numpy(np.float32) if isinstance(X, pd.DataFrame) else X.astype(np.float32)
    y = np.asarray(y)
    regression = name == "california"
    if n_published:
        train, test = np.arange(n_published), np.arange(n_published, len(y))
    else:
        stratify = None if regression else y
        train, test = train_test_split(
            np.arange(len(y)), test_size=0.25, random_state=seed, stratify=stratify
        )
    return Data(name, X[train], y[train], X[test], y[test], regression)


def _digits():
    return *load_digits(return_X_y=True), None


def _letter():
    path = FOLDER / "letter.csv"
    if path.exists():
        frame = pd.read_csv(path)
        return frame.drop(columns="Letter"), frame["Letter"].to_numpy(str), None
    X, y = fetch_openml("letter", version=1, return_X_y=True, as_frame=True)
    return X, y.to_numpy(str), None


def _adult():
    train, test = FOLDER / "adult_train.csv", FOLDER / "adult_test.csv"
    n_train = None
    if train.exists():
        parts = [
            pd.read_csv(path, header=None, skipinitialspace=True)
            for path in (train, test)
        ]
        n_train = len(parts[0])
        frame = pd.concat(parts, ignore_index=True)
        y = frame.pop(14).str.rstrip(".")
    else:
        frame, y = fetch_openml("adult", version=2, return_X_y=True, as_frame=True)
    return pd.get_dummies(frame), y.to_numpy(str), n_train


def _california():
    path = FOLDER / "california_housing.csv"
    if path.exists():
        frame = pd.read_csv(path)
    else:
        frame = fetch_openml("california_housing", version=8, as_frame=True).frame
    y = frame.pop("median_house_value")
    frame = pd.get_dummies(frame)
    return frame.fillna(frame.median()), y.to_numpy(float), None


def _higgs():
    paths = [FOLDER / f"higgs_sample.{part}.tsv" for part in ("train", "test")]
    if paths[0].exists():
        frame = pd.concat([pd.read_csv(p, sep="\t", header=None) for p in paths])
        y = frame.pop(0)
        return frame, y.to_numpy(int), None
    X, y = fetch_openml("higgs", version=2, return_X_y=True, as_frame=True)
    return X.fillna(X.median()), y.to_numpy(int), None
