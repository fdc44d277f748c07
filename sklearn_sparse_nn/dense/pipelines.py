"""The steps of a pipeline in front of its pruner."""

from dataclasses import dataclass
from typing import Any, Self

from sklearn.base import clone
from sklearn.pipeline import Pipeline

__all__ = ["StepsBefore"]


@dataclass(frozen=True)
class StepsBefore:
    """The steps of a pipeline that rows pass before they reach its pruner.

    Parameters
    ----------
    pipe : sklearn.pipeline.Pipeline or None
        The pipeline, with its last step; None where there is a pruner alone.
    """

    pipe: Pipeline | None

    @classmethod
    def of(cls, estimator: Any) -> tuple[Self, Any]:
        """Split an estimator into the steps before the last one, and this.

        Parameters
        ----------
        estimator : sklearn.pipeline.Pipeline or any other
            The estimator; it is not changed.

        Returns
        -------
        before : StepsBefore
        last : estimator
            The last step; `estimator` itself if it is no pipeline.
        """
        if not isinstance(estimator, Pipeline):
            return cls(None), estimator
        return cls(estimator), estimator.steps[-1][1]

    def fit(self, X: Any, y: Any) -> tuple[Self, Any]:
        """Fit clones of the steps.

        Parameters
        ----------
        X, y : arrays
            The rows to train on, and their targets.

        Returns
        -------
        before : StepsBefore
            The fitted steps.
        rows : array
            The rows as they reach the last step.
        """
        steps = self._transformers()
        if self.pipe is None or steps is None:
            return self, X
        steps = clone(steps)
        rows = steps.fit_transform(X, y)
        last = self.pipe.steps[-1]
        return type(self)(self._pipeline([*steps.steps, last])), rows

    def rows(self, X: Any) -> Any:
        """Return rows as they reach the last step; the steps are fitted."""
        steps = self._transformers()
        return X if steps is None else steps.transform(X)

    def kind(self, last: Any) -> str:
        """Return what was given, for an error about its last step."""
        name = type(last).__name__
        return f"a {name}" if self.pipe is None else f"a Pipeline that ends with {name}"

    def around(self, last: Any) -> Any:
        """Build the pipeline of these very steps and another last one.

        Parameters
        ----------
        last : estimator
            The last step.

        Returns
        -------
        estimator : sklearn.pipeline.Pipeline or the last step itself
        """
        if self.pipe is None:
            return last
        *steps, (name, _) = self.pipe.steps
        return self._pipeline([*steps, (name, last)])

    def _transformers(self) -> Pipeline | None:
        if self.pipe is None or len(self.pipe.steps) < 2:
            return None
        return self._pipeline(self.pipe.steps[:-1])

    def _pipeline(self, steps: list[tuple[str, Any]]) -> Pipeline:
        assert self.pipe is not None
        return Pipeline(steps, memory=self.pipe.memory, verbose=self.pipe.verbose)
