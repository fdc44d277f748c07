"""scikit-learn's own checks, with no expected failure, and those it leaves out."""

import pytest
from sklearn.base import clone
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    PrunedRegressor,
    PrunedRegressorCV,
    TabularNetClassifier,
    TabularNetRegressor,
)

NETS = [TabularNetClassifier(), TabularNetRegressor()]
# As they come they would train forty epochs, and searches fifty times, for every check.
QUICK = {"lr": 0.05, "max_epochs": 5}
SHORT = {"allocation": "uniform", "n_steps": 1, "prune_epochs": 1, "finetune_epochs": 2}
PRUNERS = [
    PrunedClassifier(dense_epochs=4, **SHORT),
    PrunedRegressor(dense_epochs=10, **{**SHORT, "finetune_epochs": 8}),
]
SEARCHES = [
    PrunedClassifierCV(
        PrunedClassifier(TabularNetClassifier((32,), **QUICK), **SHORT),
        sparsities=[0.3, 0.5],
        cv=2,
    ),
    PrunedRegressorCV(
        PrunedRegressor(TabularNetRegressor((32,), **QUICK), **SHORT),
        sparsities=[0.3, 0.5],
        cv=2,
    ),
]
# The whole default list once more where another parameter takes another path.
VARIANTS = [
    TabularNetClassifier(
        (32,), lr=0.01, norm="layer", dropout=0.1, early_stopping=True
    ),
    PrunedClassifier(
        TabularNetClassifier((32, 32), **QUICK),
        sparsity=0.5,
        granularity="neuron",
        **SHORT,
    ),
    PrunedRegressor(
        TabularNetRegressor((32,), **QUICK),
        sparsity=0.5,
        rewind="weights",
        **SHORT | {"finetune_epochs": 12},
    ),
]

NOT_IN_THE_DEFAULT_LIST = [
    estimator_checks.check_param_validation,
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_estimators_overwrite_params,
    estimator_checks.check_n_features_in_after_fitting,
]
FOR_TRANSFORMERS = [
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
    estimator_checks.check_get_feature_names_out_error,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_global_output_transform_pandas,
    estimator_checks.check_set_output_transform_polars,
    estimator_checks.check_global_set_output_transform_polars,
]


def _ids(item):
    return getattr(item, "__name__", None) or type(item).__name__


@parametrize_with_checks(NETS + PRUNERS + SEARCHES + VARIANTS)
def test_default_list(estimator, check):
    check(estimator)


@pytest.mark.parametrize("check", NOT_IN_THE_DEFAULT_LIST, ids=_ids)
@pytest.mark.parametrize("estimator", NETS + PRUNERS + SEARCHES, ids=_ids)
def test_not_in_the_default_list(estimator, check):
    check(type(estimator).__name__, clone(estimator))


# The checks themselves fit on a DataFrame and transform an array, and the reverse.
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
@pytest.mark.filterwarnings("ignore:X has feature names, but:UserWarning")
@pytest.mark.parametrize("check", FOR_TRANSFORMERS, ids=_ids)
@pytest.mark.parametrize("estimator", PRUNERS + SEARCHES, ids=_ids)
def test_for_transformers(estimator, check):
    check(type(estimator).__name__, clone(estimator))
