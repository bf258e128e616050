"""One training run as data: every choice that decides its result, saved beside the result as `config.json`."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scripts.training.batchnorm import BatchNormArguments


class Augmentation(BaseModel):
    """How far a picture may be changed (`scripts.training.augment` does it); every default is "not at all"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rotate: float = Field(0.0, ge=0, le=180, description="largest rotation, degrees")
    scale: float = Field(0.0, ge=0, lt=1, description="largest change of size along each axis, as a fraction")
    shear: float = Field(0.0, ge=0, lt=2, description="largest shear along each axis, as a tangent")
    shift: float = Field(0.0, ge=0, description="largest shift along each axis, pixels")
    elastic: float = Field(0.0, ge=0, description="standard deviation of the elastic displacement, pixels")
    elastic_grid: int = Field(5, ge=2, description="control points of the elastic field along each axis")
    stroke: float = Field(0.0, ge=0, le=1, description="how far strokes may be thinned or thickened, 0 to 1")
    contrast: float = Field(0.0, ge=0, lt=1, description="largest change of the ink's gamma, as a fraction")
    cutout: int = Field(0, ge=0, description="side of the square that may be cut out, pixels")
    cutout_probability: float = Field(0.5, ge=0, le=1, description="share of the pictures with a cut-out")


class Distillation(BaseModel):
    """Larger teachers are trained first and the network learns their answers (Hinton et al., arXiv:1503.02531).

    Teachers and student see the *same* augmented pictures, many of them (Beyer et al., arXiv:2106.05237).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    teachers: int = Field(1, ge=1, description="teachers, each with a seed of its own, whose answers are averaged")
    epochs: int = Field(20, ge=1, description="epochs of a teacher")
    batch_size: int = Field(125, ge=1, description="batch size of a teacher")
    learning_rate: float = Field(2e-3, gt=0, description="highest learning rate of a teacher")
    precision: Literal["float32", "mixed_bfloat16"] = Field(
        "float32", description="arithmetic of a teacher; bfloat16 is faster where the processor has it"
    )
    mixup: float = Field(0.0, ge=0, le=1, description="share of a teacher's pictures blended with another one")
    manifold: bool = Field(False, description="blend half of the batches within the network instead of at its input")
    copies: int = Field(10, ge=1, description="augmented copies of the training set that the teachers answer")
    refine: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the copies, the last ones, in which half of the pictures are unchanged and none has a "
        "cut-out (He et al., arXiv:1909.09148)",
    )
    temperature: float = Field(2.0, gt=0, description="softens the teachers' and the student's answers alike")
    weight: float = Field(0.8, ge=0, le=1, description="share of the teachers' answers in the loss")


class TrainConfig(BaseModel):
    """The seed's recipe by default; `RECIPES` holds the presets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Literal["kmnist", "digits", "folder"] = Field(
        "kmnist", description="`folder`: your own pictures, one subfolder of --data-dir for each class"
    )
    seed: int = Field(7, ge=0, description="seed of the weights, the order and the augmentation")
    batch_size: int = Field(250, ge=1)
    epochs: int = Field(25, ge=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the rate rises from 0 (cosine)")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay (adamw)")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1, description="dropped share of the flattened features, in training only")
    average: float = Field(0.0, ge=0, lt=1, description="momentum of the weights' moving average; 0 is none")
    reestimate: int = Field(0, ge=0, description="batches of unchanged pictures for re-estimating the BN statistics")
    fused_training: bool = Field(
        False, description="train with TensorFlow's fused batch normalisation: twice as fast, same function"
    )
    start: Path | None = Field(
        None, description="trained network (.keras) whose weights the run goes on from; the default are random weights"
    )
    networks: int = Field(
        1,
        ge=1,
        description="networks trained in turn from the same start, each in an order of its own, whose weights are "
        "averaged (Wortsman et al., arXiv:2203.05482)",
    )
    validation_split: float = Field(0.2, ge=0, lt=1, description="share taken from the end of the training set")
    augmentation: Augmentation = Augmentation()
    distillation: Distillation | None = None
    batchnorm: BatchNormArguments = BatchNormArguments()

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError("weight_decay: only optimizer=adamw decays weights")
        if self.warmup and self.schedule != "cosine":
            raise ValueError("warmup: only schedule=cosine warms up")
        if self.networks > 1 and self.start is None:
            raise ValueError("networks: only networks with a common start can be averaged; give start, too")
        return self


_STYLE = Augmentation(
    rotate=10,
    scale=0.12,
    shear=0.15,
    shift=2.0,
    elastic=0.6,
    stroke=0.4,
    contrast=0.3,
    cutout=8,
    cutout_probability=0.3,
)

RECIPES: dict[str, dict[str, Any]] = {
    # The Keras batch-normalisation example, to the letter.
    "seed": {},
    # A minute on a laptop, without a download. So few steps need statistics that follow faster.
    "quick": {"dataset": "digits", "batch_size": 32, "epochs": 10, "batchnorm": {"momentum": 0.9}},
    # The same network and input; what the training set lacks is other hands, so the style is varied.
    "best": {
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "warmup": 0.03,
        "weight_decay": 0.01,
        "epochs": 160,
        "average": 0.999,
        "reestimate": 400,
        "fused_training": True,
        "validation_split": 0.05,
        "augmentation": _STYLE.model_dump(),
        "distillation": Distillation(
            epochs=18, precision="mixed_bfloat16", mixup=0.6, copies=20, temperature=4.0, weight=1.0
        ).model_dump(),
    },
}
