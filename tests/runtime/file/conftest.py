"""Model files as bytes, and what is expected of them."""

import pytest

from sklearn_sparse_nn.exceptions import ModelFormatError
from sklearn_sparse_nn.runtime import SparseModel


@pytest.fixture
def load(tmp_path):
    """Load bytes as a file."""

    def load_bytes(raw):
        (tmp_path / "m").write_bytes(raw)
        return SparseModel.load(tmp_path / "m")

    return load_bytes


@pytest.fixture
def refuses(load):
    """Expect that bytes are refused, with the name of the file and the reason."""

    def refuse(raw, match=""):
        with pytest.raises(ModelFormatError, match=f"m' is no usable model: .*{match}"):
            load(raw)

    return refuse
