"""The manifest of a bundle: what the files are, what the network takes and gives, and the proof of the fold."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1

Datatype = Literal[
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(_Model):
    """One input or output, in the words of the Open Inference Protocol."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(description="with the batch dimension first; -1 is variable")


class Tap(_Model):
    """Where a layer's input can still be seen: input = scale · tensor + shift, channel by channel."""

    tensor: str = Field(description="name of the tensor in the folded graph")
    axis: int = Field(description="the tensor's channel axis")
    scale: tuple[float | None, ...] = Field(description="None where a channel cannot be seen")
    shift: tuple[float | None, ...]


class BatchNormRecord(_Model):
    """One batch-normalisation layer: what it was and where it went.

    Its arrays are in `batchnorm.safetensors`, as `<name>/gamma`, `/beta`, `/moving_mean`, `/moving_variance`.
    """

    name: str = Field(description="the Keras layer's name")
    axis: int = Field(description="the normalised axis of the layer's input, never negative")
    channels: int
    epsilon: float
    momentum: float
    center: bool
    scale: bool
    status: Literal["folded", "kept"]
    rules: tuple[str, ...] = Field(description="the rules that moved and absorbed it, or why it was kept")
    into: tuple[str, ...] = Field(description="nodes of the folded graph whose weights absorbed it")
    residual: tuple[str, ...] = Field((), description="nodes that are in the folded graph only because of it")
    conditioning: float = Field(description="largest |moving mean| / sqrt(moving variance + epsilon)")
    tap: Tap | None = None
    tap_reason: str = Field("", description="why there is no tap")


class Certificate(_Model):
    """What was measured to show that the folded and the reference graph are the same function."""

    inputs: dict[str, int] = Field(description="pictures tried, by kind: real, random, border, extreme")
    batch_sizes: tuple[int, ...]
    max_abs_error: float = Field(description="of the probabilities, folded against the float64 reference")
    max_abs_error_logits: float | None = Field(description="of the logits, relative to the largest one")
    argmax_agreement: float = Field(description="share of the pictures with the same most probable class")
    smallest_margin: float = Field(description="smallest distance of the two largest probabilities")
    conditioning: float = Field(description="largest |mean| / sigma of any folded layer")
    reference_sha256: str
    folded_sha256: str


class DriftThresholds(_Model):
    """Scores that windows of pictures of the training distribution have by chance.

    What is expected of each layer is in `drift.safetensors`: `images`, and `<layer>/count`, `/sum` and
    `/sum_of_squares` as the probe gives them, over the held-out pictures.
    """

    held_out: int = Field(ge=1, description="pictures that the thresholds come from; the network never saw them")
    images: tuple[int, ...] = Field(min_length=1, description="sizes of windows, rising")
    expected: tuple[float, ...] = Field(description="mean score of windows of each size")
    limit: tuple[float, ...] = Field(description="score that a share `rate` of windows of each size exceeds")
    rate: float = Field(gt=0, lt=1, description="false alarms per window")
    measured: dict[int, float] = Field(
        default_factory=dict, description="false alarms on windows of other held-out pictures, by the windows' size"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "DriftThresholds":
        if not len(self.images) == len(self.expected) == len(self.limit):
            raise ValueError("images, expected and limit must be of one length")
        if list(self.images) != sorted(set(self.images)) or self.images[0] < 1:
            raise ValueError("images must be positive and rising")
        return self


class GuardResult(_Model):
    """One test that a recalibration had to pass."""

    name: str
    passed: bool
    text: str = Field(description="what was measured and what is asked, for a person")


class Recalibration(_Model):
    """Where a version with re-estimated statistics comes from, and what it does differently.

    Accuracies are None where no labels were given.
    """

    parent_version: int = Field(ge=1)
    parent_sha256: str = Field(description="digest of the parent bundle")
    images: int = Field(ge=1, description="unlabelled images that the statistics were measured on")
    images_sha256: str = Field(description="of their bytes, in order")
    pseudo_count: float = Field(ge=0, description="images that the parent's statistics counted for")
    guards: tuple[GuardResult, ...]
    forced: bool = Field(description="made although a guard refused")
    moved: dict[str, float] = Field(description="by layer: root mean square move of the means, in old deviations")
    entropy: tuple[float, float] = Field(
        description="mean entropy of the answers on the images, before and after, nats"
    )
    agreement: float = Field(description="share of the images with the same class as before")
    accuracy: tuple[float, float] | None = Field(None, description="on the images, before and after")
    source_images: int = Field(0, description="images of the training's kind: those given, or the golden ones")
    source_agreement: float | None = Field(None, description="share of those with the same class as before")
    source_accuracy: tuple[float, float] | None = Field(None, description="on those, before and after")


class Manifest(_Model):
    """`manifest.json`, written last: a bundle without it is not a bundle."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: int = Field(ge=1)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = Field((), description="what a person calls each class")
    batchnorm: tuple[BatchNormRecord, ...] = ()
    operators: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="operator counts of the `reference` and the `folded` graph"
    )
    certificate: Certificate | None = None
    drift: DriftThresholds | None = Field(None, description="None if there were no held-out pictures")
    recalibration: Recalibration | None = Field(None, description="None for a version that was trained")
    keras_parity: float | None = Field(None, description="largest probability difference from `model.predict`")
    metrics: dict[str, float] = Field(default_factory=dict, description="on the test set, e.g. `accuracy`")
    training: dict[str, Any] = Field(default_factory=dict, description="configuration and provenance of the training")
    data: dict[str, str] = Field(default_factory=dict, description="data set: name, licence, attribution")
    files: dict[str, str] = Field(description="sha256 of every other file, by its path in the bundle")
