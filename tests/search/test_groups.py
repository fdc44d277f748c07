"""Groups of rows: passed to the splitter by hand, and by metadata routing."""

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    PrunedRegressor,
    PrunedRegressorCV,
    TabularNetClassifier,
    TabularNetRegressor,
)

generator = np.random.default_rng(0)
X = generator.normal(size=(48, 4))
y = (X[:, 0] > 0).astype(int)
GROUPS = np.arange(48) % 4
EPOCHS = {"prune_epochs": 1, "finetune_epochs": 0, "n_steps": 1, "random_state": 0}
SEARCHES = {
    "classifier": PrunedClassifierCV(
        PrunedClassifier(TabularNetClassifier((8,), max_epochs=1), **EPOCHS),
        sparsities=[0.5],
    ),
    "regressor": PrunedRegressorCV(
        PrunedRegressor(TabularNetRegressor((8,), max_epochs=1), **EPOCHS),
        sparsities=[0.5],
    ),
}


class Seen(GroupKFold):
    """Remembers the groups that it was given."""

    def split(self, X, y=None, groups=None):
        self.seen = groups
        return super().split(X, y, groups)


@pytest.fixture(params=[False, True], ids=["by hand", "routed"])
def routing(request):
    with sklearn.config_context(enable_metadata_routing=request.param):
        yield request.param


@pytest.fixture(params=SEARCHES.values(), ids=SEARCHES)
def search(request):
    return sklearn.clone(request.param)


@pytest.mark.usefixtures("routing")
def test_groups_reach_the_splitter(search):
    splitter = Seen(2)
    assert search.set_params(cv=splitter).fit(X, y, groups=GROUPS).n_splits_ == 2
    assert splitter.seen is GROUPS
    with pytest.raises((ValueError, TypeError), match="groups"):
        search.set_params(cv=LeaveOneGroupOut()).fit(X, y)


def test_routed_groups_reach_a_search_within_others(search):
    params = {"params": {"groups": GROUPS}, "error_score": "raise"}
    with sklearn.config_context(enable_metadata_routing=True):
        search.set_params(cv=LeaveOneGroupOut())
        inside = make_pipeline(StandardScaler(), search)
        grid = GridSearchCV(
            search, {"start": ["dense"]}, cv=GroupKFold(2), error_score="raise"
        )
        for model in (search, inside):
            out = cross_validate(model, X, y, cv=GroupKFold(2), **params)
            assert np.isfinite(out["test_score"]).all()
        assert grid.fit(X, y, groups=GROUPS).best_estimator_.n_splits_ == 4


def test_groups_are_for_splitters_that_ask_for_them(search):
    plain = search.set_params(cv=KFold(2))
    with sklearn.config_context(enable_metadata_routing=True):
        out = cross_validate(
            plain,
            X,
            y,
            cv=GroupKFold(2),
            params={"groups": GROUPS},
            error_score="raise",
        )
    assert np.isfinite(out["test_score"]).all()


@pytest.mark.usefixtures("routing")
def test_a_pruner_takes_no_groups(search):
    with pytest.raises(TypeError, match="groups"):
        search.estimator.fit(X, y, groups=GROUPS)
