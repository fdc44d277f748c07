"""The progress bar of scikit-learn over fits, searches and paths."""

import importlib.util
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_sparse_nn import (
    PrunedClassifierCV,
)
from tests.pruning.progress.recorders import PHASES, ROOT, bits, left_behind, pruner

drawn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn.callback") is None
    or importlib.util.find_spec("rich") is None,
    reason="needs scikit-learn 1.9 and rich",
)


def bars(text):
    """Give the names of the bars, their depth, and what they show."""
    found = []
    for line in text.splitlines():
        if match := re.match(r"( *)(\S.*?) +━+ *(\d+)%", line):
            found.append((len(match[1]) // 2, match[2], match[3]))
    return found


def phases(depth):
    return [(depth, f"PrunedClassifier - {p} #{i}") for i, p in enumerate(PHASES)]


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@drawn
def test_a_bar_for_every_phase(classes, capsys, wide):
    from sklearn.callback import ProgressBar

    pruner().set_callbacks(ProgressBar()).fit(*classes)
    found = bars(capsys.readouterr().out)
    assert [bar[:2] for bar in found] == [(0, "PrunedClassifier - fit"), *phases(1)]
    assert {bar[2] for bar in found} == {"100"}


@drawn
def test_a_phase_without_epochs_has_no_bar(classes, capsys, wide):
    from sklearn.callback import ProgressBar

    pruner(dense_epochs=0).set_callbacks(ProgressBar()).fit(*classes)
    found = bars(capsys.readouterr().out)
    expected = [(0, "PrunedClassifier - fit"), *phases(1)[1:]]
    assert found == [(*bar, "100") for bar in expected]


@drawn
def test_bars_in_a_pipeline(classes, capsys, wide):
    from sklearn.callback import ProgressBar

    pipe = make_pipeline(StandardScaler(), pruner())
    pipe.set_callbacks(ProgressBar()).fit(*classes)
    found = bars(capsys.readouterr().out)
    assert [bar[:2] for bar in found] == [
        (0, "Pipeline - fit"),
        (1, "Pipeline - fit-transform-standardscaler | StandardScaler - fit #0"),
        (1, "Pipeline - fit-final-estimator | PrunedClassifier - fit #1"),
        *phases(2),
    ]
    assert {bar[2] for bar in found} == {"100"}


@drawn
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_bars_in_a_grid_search(classes, capsys, wide, n_jobs, tmp_path):
    from sklearn.callback import ProgressBar

    search = GridSearchCV(
        make_pipeline(pruner(memory=str(tmp_path))),
        {"prunedclassifier__sparsity": [0.5, 0.8]},
        cv=2,
        n_jobs=n_jobs,
    )
    plain = clone(search).fit(*classes)
    capsys.readouterr()
    for path in tmp_path.rglob("output.pkl"):
        path.unlink()
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*classes)
    found = bars(capsys.readouterr().out)
    names = [name for _, name, _ in found]
    assert names[0] == "GridSearchCV - fit"
    # In every fit of a search that takes turns; the dense phase in one of a fold's two.
    assert names.count("PrunedClassifier - prune #1") == 5
    assert names.count("PrunedClassifier - finetune #2") == 5
    if n_jobs == 1:
        assert names.count("PrunedClassifier - dense #0") == 3
    assert {bar[2] for bar in found} == {"100"}
    keys = "mean_test_score", "std_test_score"
    for key in keys:
        assert np.array_equal(plain.cv_results_[key], search.cv_results_[key])


@drawn
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_bars_down_a_path(classes, capsys, wide, n_jobs):
    from sklearn.callback import ProgressBar

    search = PrunedClassifierCV(
        pruner(), sparsities=[0.5, 0.8], cv=2, n_jobs=n_jobs, random_state=0
    )
    plain = clone(search).fit(*classes)
    capsys.readouterr()
    search.set_callbacks(ProgressBar()).fit(*classes)
    found = bars(capsys.readouterr().out)
    name = "PrunedClassifierCV"
    n_levels = len(search.path_.sparsities)
    assert [bar[:2] for bar in found if bar[0] < 2] == [
        (0, f"{name} - fit"),
        (1, f"{name} - folds #0"),
        (1, f"{name} - refit #1"),
    ]
    levels = ["dense", "sparsity 0.5", "sparsity 0.8"]
    fits = [
        f"{name} - {level} | PrunedClassifier - fit #{i}"
        for i, level in enumerate(levels)
    ]
    by_name = [bar[1] for bar in found]
    assert sorted(n for d, n, _ in found if d == 2 and "fold" in n) == [
        f"{name} - fold #0",
        f"{name} - fold #1",
    ]
    for i, fit in enumerate(fits):
        assert by_name.count(fit) == 2 + (i <= n_levels)
    assert {bar[2] for bar in found} == {"100"}
    assert bits(search) == bits(plain)


@drawn
def test_bars_through_a_search_in_a_search(classes, capsys, wide):
    from sklearn.callback import ProgressBar

    inner = PrunedClassifierCV(pruner(), sparsities=[0.5], cv=2)
    search = GridSearchCV(
        make_pipeline(inner), {"prunedclassifiercv__select": ["best"]}, cv=2
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*classes)
    found = bars(capsys.readouterr().out)
    names = [bar[1] for bar in found]
    assert names.count("PrunedClassifier - prune #1") == 3 * (2 * 1 + 1)
    assert {bar[2] for bar in found} == {"100"}


@drawn
def test_a_bar_belongs_to_the_outermost(classes):
    from sklearn.callback import ProgressBar

    inner = pruner().set_callbacks(ProgressBar())
    search = PrunedClassifierCV(inner, sparsities=[0.5], cv=2)
    with pytest.raises(TypeError, match="Register them directly on the meta-estim"):
        search.fit(*classes)
    assert not left_behind(search)


@drawn
def test_the_examples_of_the_page_run(capsys, wide):
    page = (ROOT / "docs" / "progress.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(code, names)
    drawn = bars(capsys.readouterr().out)
    shown = re.search(r"```\n(GridSearchCV.*?)    \.\.\.\n```", page, re.DOTALL)[1]
    assert len(drawn) > 8 == len(bars(shown))
    assert drawn[:8] == bars(shown)
    phases = [row["phase"] for row in names["pruner"].history_]
    assert phases.count("prune") == 3
    assert 0 < phases.count("dense") < 50
    assert 0 < phases.count("finetune") < 50
    assert names["pruner"].score(names["X_val"], names["y_val"]) >= 0.95
