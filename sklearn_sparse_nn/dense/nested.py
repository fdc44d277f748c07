"""The parameters of the estimator that None stands for, by their nested names."""

from typing import Any, Self

from sklearn.base import BaseEstimator

__all__ = ["NestedDefault"]


class NestedDefault(BaseEstimator):
    """An estimator whose `estimator` may be None, for one with defaults.

    Its nested parameters are listed, and can be set and searched, all the same. Setting
    one puts the estimator that None stands for in its place.
    """

    estimator: Any

    def _defaults(self) -> list[Any]:
        """Return what None may be replaced by, the first one by preference."""
        raise NotImplementedError

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name.

        Parameters
        ----------
        deep : bool, default=True
            Whether to list the parameters of parts too, as ``estimator__lr``; where
            `estimator` is None, those of the estimator that it stands for.

        Returns
        -------
        params : dict
        """
        params: dict[str, Any] = super().get_params(deep)
        if deep and self.estimator is None:
            inner = self._defaults()[0].get_params().items()
            params |= {f"estimator__{name}": value for name, value in inner}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, nested ones by names such as ``estimator__lr``.

        Parameters
        ----------
        **params
            Parameters by name.

        Returns
        -------
        self : object
        """
        prefix = "estimator__"
        nested = {
            name.removeprefix(prefix).split("__")[0]
            for name in params
            if name.startswith(prefix)
        }
        if nested and params.get("estimator", self.estimator) is None:
            candidates = self._defaults()
            params["estimator"] = next(
                (one for one in candidates if nested <= one.get_params().keys()),
                candidates[0],
            )
        super().set_params(**params)
        return self
