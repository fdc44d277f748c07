"""The export of fitted pruners, modules and pipelines to sparse models."""

from sklearn_sparse_nn.export.cache import predicting_model
from sklearn_sparse_nn.export.model import export_module, export_pruner
from sklearn_sparse_nn.export.pipeline import export_pipeline

__all__ = ["export_module", "export_pipeline", "export_pruner", "predicting_model"]
