"""The optimizer of a run, with its schedule and its average of the weights."""

from typing import Any

import keras

from scripts.training.config import TrainConfig


def optimizer(config: TrainConfig, rate: float, steps: int) -> Any:
    """What the configuration names.

    Args:
        config: `optimizer`, `schedule`, `warmup`, `weight_decay` and `average` count.
        rate: the highest learning rate.
        steps: batches in the whole run.
    """
    schedule: Any = rate
    if config.schedule == "cosine":
        warm = int(steps * config.warmup)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0 if warm else rate, steps - warm, alpha=0.001, warmup_target=rate if warm else None, warmup_steps=warm
        )
    common = {"use_ema": bool(config.average), "ema_momentum": config.average or 0.99}
    if config.optimizer == "adam":
        return keras.optimizers.Adam(schedule, **common)
    decaying = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, **common)
    decaying.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return decaying
