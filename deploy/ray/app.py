"""Foldserve behind Ray Serve: the same application in every replica, on as many machines as the cluster has.

    serve run deploy.ray.app:app

The settings are those of the server, `FOLDSERVE_…` in the environment of whoever deploys; the folder of models must be
at the same place on every machine. `deploy/ray/environment` says what the cluster itself should be started with.
"""

import os
from pathlib import Path

from fastapi import FastAPI
from ray import serve

CORES = 1  # of one replica; its runs of the model go one after the other


def build() -> FastAPI:
    """The application of one replica; evaluated there, so that nothing of it has to travel."""
    from service.app import create_app

    return create_app()


def environment() -> dict[str, str]:
    """What every replica's server is to be told: the settings here, its share of a machine, where the models are."""
    given = {name: value for name, value in os.environ.items() if name.startswith("FOLDSERVE_")}
    models = Path(given.get("FOLDSERVE_MODELS", "models")).resolve()
    return {"FOLDSERVE_RUNNERS": str(CORES)} | given | {"FOLDSERVE_MODELS": str(models)}


deployment = serve.deployment(
    name="Foldserve",
    max_ongoing_requests=64,
    autoscaling_config={"min_replicas": 2, "max_replicas": 64, "target_ongoing_requests": 16},
    ray_actor_options={"num_cpus": CORES, "runtime_env": {"env_vars": environment()}},
    health_check_period_s=5,
    graceful_shutdown_timeout_s=35,
)(serve.ingress(build)())
app = deployment.bind()
