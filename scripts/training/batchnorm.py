"""Every argument of Keras' `BatchNormalization`, settable by name and checked before Keras sees it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

INITIALIZERS = (
    "zeros", "ones", "random_normal", "random_uniform", "truncated_normal", "constant",
    "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal", "lecun_uniform", "variance_scaling",
)  # fmt: skip
REGULARIZERS = ("l1", "l2", "l1_l2")
CONSTRAINTS = ("max_norm", "min_max_norm", "non_neg", "unit_norm")

Choice = str | dict[str, Any] | None


class BatchNormArguments(BaseModel):
    """Arguments of all BN layers of a network; the defaults are Keras'.

    An initializer, regularizer or constraint is a name, or a name with its arguments:
    `{"name": "l2", "l2": 0.001}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    axis: int = Field(-1, description="the axis that is normalised one by one: the channels")
    momentum: float = Field(0.99, ge=0, le=1, description="share of the old moving statistics kept at each step")
    epsilon: float = Field(1e-3, gt=0, description="added to the variance")
    center: bool = Field(True, description="learn beta")
    scale: bool = Field(True, description="learn gamma")
    beta_initializer: Choice = "zeros"
    gamma_initializer: Choice = "ones"
    moving_mean_initializer: Choice = "zeros"
    moving_variance_initializer: Choice = "ones"
    beta_regularizer: Choice = None
    gamma_regularizer: Choice = None
    beta_constraint: Choice = None
    gamma_constraint: Choice = None
    synchronized: bool = Field(False, description="statistics over all replicas of a distributed training")
    renorm: bool = Field(False, description="batch renormalisation, arXiv:1702.03275")
    renorm_clipping: dict[Literal["rmin", "rmax", "dmax"], float] | None = None
    renorm_momentum: float = Field(0.99, ge=0, le=1)

    def keras_arguments(self) -> dict[str, Any]:
        """As keyword arguments of `keras.layers.BatchNormalization`."""
        return {
            name: _keras_object(name, value) if _family(name) else value for name, value in self.model_dump().items()
        }

    @field_validator(
        "beta_initializer", "gamma_initializer", "moving_mean_initializer", "moving_variance_initializer",
        "beta_regularizer", "gamma_regularizer", "beta_constraint", "gamma_constraint",
    )  # fmt: skip
    @classmethod
    def _known(cls, value: Choice, info: Any) -> Choice:
        module, names = _family(info.field_name) or ("", ())
        name = value.get("name") if isinstance(value, dict) else value
        if name is None and module != "initializers" and not isinstance(value, dict):
            return None
        if name not in names:
            raise ValueError(f"{name!r} is no {module[:-1]}; choose one of {', '.join(names)}")
        _keras_object(info.field_name, value)
        return value


def _family(argument: str) -> tuple[str, tuple[str, ...]] | None:
    for ending, names in (("initializer", INITIALIZERS), ("regularizer", REGULARIZERS), ("constraint", CONSTRAINTS)):
        if argument.endswith(ending):
            return f"{ending}s", names
    return None


def _keras_object(argument: str, value: Choice) -> Any:
    """Build the object, so that a wrong argument is found before the training starts."""
    if value is None:
        return None
    import keras

    module, _ = _family(argument) or ("", ())
    options = dict(value) if isinstance(value, dict) else {"name": value}
    name = str(options.pop("name"))
    class_name = {"zeros": "Zeros", "ones": "Ones", "l1": "L1", "l2": "L2", "l1_l2": "L1L2"}.get(
        name, "".join(part.title() for part in name.split("_"))
    )
    try:
        return getattr(getattr(keras, module), class_name)(**options)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
