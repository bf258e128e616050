"""Every setting of the server, in one place: the environment (`FOLDSERVE_<NAME>`), the flags and the docs follow it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Foldserve: serves folded networks over REST (Open Inference Protocol V2)."""

    model_config = SettingsConfigDict(
        env_prefix="FOLDSERVE_",
        cli_prog_name="foldserve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        frozen=True,
    )

    workers: int = Field(
        1, ge=1, le=64, description="processes that share the port; more than one only where no orchestrator does that"
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all interfaces")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one and logs it")

    models: Path = Field(Path("models"), description="the model repository: a folder of `<name>/<version>/` folders")
    versions: str = Field(
        "all",
        pattern=r"^(all|latest|latest:[1-9][0-9]*|[1-9][0-9]*(,[1-9][0-9]*)*)$",
        description="which versions serve: `all`, `latest`, `latest:2` (the first two that load: what was promoted, "
        "then the newest), or a list: `1,3`",
    )
    poll_interval: float = Field(
        0.0, ge=0, description="seconds between looks into the repository for new and vanished versions; 0 for never"
    )
    self_test_interval: float = Field(
        60.0, ge=0, description="seconds between self-tests of the models, on which readiness depends; 0 for never"
    )
    default_model: str | None = Field(
        None, description="the model of POST /predict; by default the only one, or the first by name"
    )

    provider: Literal["auto", "cpu", "cuda"] = Field(
        "cpu",
        description="where the model runs; `cuda` without a CUDA card is an error, `auto` takes CUDA where it is there",
    )
    device_id: int = Field(0, ge=0, description="which CUDA card")
    gpu_memory_mib: int | None = Field(
        None, ge=64, description="most memory of the card, in MiB, that each session may take; by default all"
    )
    threads: int = Field(1, ge=1, description="threads within one run of the model; concurrency comes from `runners`")
    runners: int | None = Field(
        None, ge=1, description="runs of models at the same time; by default the cores of this process's quota"
    )

    max_batch_size: int = Field(1024, ge=1, description="most rows (pictures) that one request may carry")
    run_batch_size: int = Field(
        16, ge=1, description="most rows in one run of the model; longer requests run in slices"
    )
    max_queue: int = Field(512, ge=1, description="most requests that wait for one model; the next gets 503 at once")

    max_queue_delay: float = Field(
        0.0, ge=0, le=1, description="seconds that a request may wait for others to run with; 0 runs what is there"
    )
    queue_timeout: float = Field(
        0.0, ge=0, description="seconds that a request without a timeout of its own may wait for a runner; 0 for ever"
    )

    drift_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of one core's time that watching the statistics may take; 0 watches nothing, 1 every batch",
    )
    drift_window: int = Field(256, ge=32, le=2**20, description="sampled pictures after which drift is judged anew")
    drift_interval: float = Field(
        600.0, gt=0, description="seconds after which it is judged anew, if there are at least 32 sampled pictures"
    )

    keep_images: int = Field(
        0, ge=0, le=2**20, description="latest images of each version to keep in memory for recalibration; 0 for none"
    )

    max_body_bytes: int = Field(64 * 2**20, ge=1024, description="largest request body, also after decompression")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="keys that may use the server, separated by commas; everybody may if there is none"
    )
    admin_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="keys that may load, unload and recalibrate models, separated by commas; nobody may without"
    )
    max_image_pixels: int = Field(2**24, ge=1, description="largest picture, width times height, before it is decoded")

    drain_delay: float = Field(
        1.0, ge=0, description="seconds to go on serving after SIGTERM, unready, while load balancers look away"
    )
    shutdown_timeout: float = Field(30.0, ge=0, description="seconds that accepted requests then have to finish")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line to log")
    access_log: bool = Field(False, description="one line for each request: id, route, model, version, status, time")
    log_format: Literal["text", "json"] = Field("text", description="lines for people, or one JSON object a line")

    @field_validator("api_keys", "admin_keys", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Keys come as one string, separated by commas."""
        if isinstance(value, str):
            return tuple(key.strip() for key in value.split(",") if key.strip())
        return value
