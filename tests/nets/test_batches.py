import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset
from torch.utils.data import DataLoader, Subset, TensorDataset

from sklearn_sparse_nn import BatchIterator


def rows_of(batches):
    return np.concatenate([X.numpy() for X, _ in batches])


@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
@settings(deadline=None)
def test_every_row_comes_once_with_its_target(n, batch_size, shuffle, drop_last):
    X = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    batches = list(
        BatchIterator(
            Dataset(X, np.arange(n)),
            batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            random_state=0,
        )
    )
    seen = np.concatenate([y.numpy() for _, y in batches]) if batches else np.empty(0)
    expected = n - n % batch_size if drop_last else n
    assert len(seen) == expected
    assert len(set(seen.tolist())) == expected
    for X_batch, y_batch in batches:
        assert np.array_equal(X_batch.numpy(), X[y_batch.numpy()])


@given(n=st.integers(1, 60), batch_size=st.integers(1, 20), drop_last=st.booleans())
@settings(deadline=None)
def test_len_is_the_number_of_batches(n, batch_size, drop_last):
    data = Dataset(np.zeros((n, 1), np.float32), np.zeros(n))
    iterator = BatchIterator(data, batch_size, drop_last=drop_last)
    assert len(iterator) == len(list(iterator))


def test_batches_equal_those_of_a_data_loader():
    rng = np.random.default_rng(0)
    data = Dataset(rng.normal(size=(50, 3)).astype("float32"), np.arange(50))
    ours = list(BatchIterator(data, 16))
    theirs = list(DataLoader(data, 16))
    assert len(ours) == len(theirs)
    for (X, y), (X_theirs, y_theirs) in zip(ours, theirs, strict=True):
        assert torch.equal(X, X_theirs)
        assert torch.equal(y, y_theirs)


def test_single_last_row_joins_the_batch_before():
    data = Dataset(np.zeros((9, 1), np.float32), np.arange(9))
    assert [len(y) for _, y in BatchIterator(data, 4)] == [4, 5]


def test_batch_size_one_stays_one():
    data = Dataset(np.zeros((3, 1), np.float32), np.arange(3))
    assert [len(y) for _, y in BatchIterator(data, 1)] == [1, 1, 1]


def test_same_seed_gives_the_same_orders_epoch_by_epoch():
    data = Dataset(np.arange(30, dtype="float32")[:, None], np.arange(30))
    one = BatchIterator(data, 8, shuffle=True, random_state=3)
    two = BatchIterator(data, 8, shuffle=True, random_state=3)
    first, second = rows_of(one), rows_of(one)
    assert not np.array_equal(first, second)
    assert np.array_equal(rows_of(two), first)
    assert np.array_equal(rows_of(two), second)


def test_without_a_seed_torchs_global_generator_decides():
    data = Dataset(np.arange(30, dtype="float32")[:, None], np.arange(30))
    orders = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(5)
            orders.append(rows_of(BatchIterator(data, 8, shuffle=True)))
    assert np.array_equal(*orders)


def test_with_a_seed_global_random_state_is_left_alone():
    data = Dataset(np.arange(30, dtype="float32")[:, None], np.arange(30))
    before = torch.random.get_rng_state()
    list(BatchIterator(data, 8, shuffle=True, random_state=0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nested_subsets_select_their_rows():
    data = Dataset(np.arange(10, dtype="float32")[:, None], np.arange(10))
    subset = Subset(Subset(data, [9, 7, 5, 3]), [0, 3])
    assert rows_of(BatchIterator(subset)).ravel().tolist() == [9, 3]


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_matrix])
def test_sparse_rows_become_dense_batch_by_batch(make):
    dense = np.random.default_rng(0).normal(size=(20, 5)).astype("float32")
    dense[dense < 0.5] = 0
    data = Dataset(make(dense), np.arange(20))
    batches = list(BatchIterator(data, 6, shuffle=True, random_state=0))
    assert max(len(X) for X, _ in batches) < 20
    for X, y in batches:
        assert np.array_equal(X.numpy(), dense[y.numpy()])


def test_read_only_and_memory_mapped_arrays(tmp_path):
    X = np.arange(20, dtype="float32").reshape(10, 2)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    data = Dataset(mapped, np.arange(10))
    assert np.array_equal(rows_of(BatchIterator(data, 4)), X)


def test_tensors_and_data_frames():
    X = torch.arange(12.0).reshape(6, 2)
    frame = pd.DataFrame(X.numpy())
    assert np.array_equal(
        rows_of(BatchIterator(TensorDataset(X, torch.zeros(6)))), X.numpy()
    )
    assert np.array_equal(rows_of(BatchIterator(Dataset(frame, None))), X.numpy())


def test_other_datasets_are_refused_with_a_hint():
    with pytest.raises(TypeError, match="DataLoader"):
        BatchIterator([1, 2, 3])
    with pytest.raises(TypeError, match="dict"):
        BatchIterator(Dataset({"a": np.zeros(3)}, np.zeros(3)))


def test_plain_skorch_net_takes_it(classes):
    X, y = classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NeuralNetClassifier(
            torch.nn.Linear,
            module__in_features=8,
            module__out_features=3,
            criterion=torch.nn.CrossEntropyLoss,
            lr=0.1,
            max_epochs=20,
            iterator_train=BatchIterator,
            iterator_train__shuffle=True,
            iterator_valid=BatchIterator,
            verbose=0,
        ).fit(X, y)
    assert net.score(X, y) > 0.7
