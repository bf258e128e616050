"""A cluster of two machines, in processes of this one, that serves deploy.ray.app; driven by lines on standard input.

`url` on standard output says that it serves; `kill` kills one replica as a machine's failure would; the end of the
input ends the cluster.
"""

import json
import sys

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.util import list_named_actors

ATTEMPTS = 3


def say(**words: object) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def replicas() -> list[str]:
    """The names of the replicas' actors."""
    found = (actor["name"] for actor in list_named_actors(all_namespaces=True))
    return sorted(name for name in found if name.startswith("SERVE_REPLICA::"))


def start() -> Cluster:
    """Two nodes. Ray gives its own helpers 15 s to start, and on a busy machine they sometimes need more."""
    for _ in range(ATTEMPTS - 1):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=2, include_dashboard=False)
            cluster.add_node(num_cpus=2)
            return cluster
        except Exception:  # whatever Ray raises; the last attempt is not caught
            cluster.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    return cluster


def main(port: int) -> None:
    from deploy.ray.app import app

    cluster = start()
    try:
        ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
        serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})
        serve.run(app, blocking=False)
        say(url=f"http://127.0.0.1:{port}", replicas=replicas(), nodes=len(ray.nodes()))
        for line in sys.stdin:
            if line.strip() == "kill":
                victim = replicas()[0]
                ray.kill(ray.get_actor(victim, namespace="serve"))
                say(killed=victim)
            elif line.strip() == "replicas":
                say(replicas=replicas())
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
