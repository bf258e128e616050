"""A cluster of two machines, in processes of this one, that serves deploy.ray.app; driven by lines on standard input.

`url` on standard output says that it serves; `kill` kills a replica without a word of warning, `forget` the blackboard;
`replicas` lists those that there are; the end of the input ends the cluster.
"""

import json
import os
import sys
import time

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError
from ray.util import list_named_actors

ATTEMPTS = 3
ANSWERS = os.dup(1)  # Ray writes to standard output whatever it has to say of nodes that died; that goes elsewhere
os.dup2(2, 1)
REPLICA, BLACKBOARD = "SERVE_REPLICA::", "SERVE_DEPLOYMENT_ACTOR::"


def say(**words: object) -> None:
    os.write(ANSWERS, json.dumps(words).encode() + b"\n")


def actors(prefix: str) -> list[str]:
    """The names of the living actors that begin so."""
    found = (actor["name"] for actor in list_named_actors(all_namespaces=True))
    return sorted(name for name in found if name.startswith(prefix))


def kill(prefix: str) -> str:
    """Kill one of them; its name."""
    victim = actors(prefix)[0]
    ray.kill(ray.get_actor(victim, namespace="serve"))
    return victim


def wait_for_another(name: str) -> None:
    """Wait until there is a living actor of that name again."""
    while True:
        try:
            ray.get(ray.get_actor(name, namespace="serve").__ray_ready__.remote())
        except (ValueError, RayActorError):
            time.sleep(0.2)
        else:
            return


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
        serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
        serve.run(app, blocking=False)
        say(url=f"http://127.0.0.1:{port}", replicas=actors(REPLICA), nodes=len(ray.nodes()))
        for line in sys.stdin:
            match line.strip():
                case "kill":
                    say(gone=kill(REPLICA))
                case "forget":
                    name = kill(BLACKBOARD)
                    wait_for_another(name)
                    say(gone=name)
                case "replicas":
                    say(replicas=actors(REPLICA))
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
