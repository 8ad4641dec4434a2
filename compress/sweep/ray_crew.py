"""Runs trials on the machines of a Ray cluster, which all see the folder of the sweep under the same path.

Ray places tasks and says when a machine is gone; files say everything else. A task is the same worker process as on
one machine, a child of Ray's, and dies with it. Whoever gets the order next finds the sealed stages and goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from compress.errors import RecipeError, StageError
from compress.sweep.crew import Order, start_worker
from compress.sweep.model import Sweep


class RayCrew:
    """Workers on the nodes of a cluster, one CPU each; what is timed runs on the node that has a resource."""

    times_apart = True

    def __init__(self, address: str, machine: str | None) -> None:
        """Join a cluster.

        Args:
            address: as `ray.init` takes it: 'auto', 'HOST:PORT' or 'local'.
            machine: resource of the one node that times; None if nothing is timed.

        Raises:
            StageError: there is no cluster, or no node of it has the resource.
        """
        try:
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            text = str(error).split("\n")[0].rstrip(".")
            raise StageError(
                f"--ray {address}: {text}. Start a cluster with `ray start --head`, or leave --ray out."
            ) from error
        self._machine = machine
        if machine is not None and machine not in ray.cluster_resources():
            ray.shutdown()
            raise StageError(
                f"--ray {address}: no node has the resource {machine!r} that `machine` names. Start the one that times "
                f"with `ray start --address ... --resources '{{\"{machine}\": 1}}'`."
            )
        self._running: dict[Any, Order] = {}

    @property
    def size(self) -> int:
        """Return the CPUs of the nodes that are there now; nodes may come and go."""
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def start(self, order: Order) -> None:
        """Hand an order to the cluster."""
        resources = {self._machine: 1} if order.is_timing and self._machine is not None else None
        # What is timed waits for the others by itself, in the room of its machine, not for a CPU.
        cpus = 0 if order.is_timing else 1
        task = ray.remote(work).options(num_cpus=cpus, resources=resources, max_retries=0)
        self._running[task.remote(str(order.task.resolve()))] = order

    def wait(self) -> list[Order]:
        """Wait for tasks to end, or for their machines to be gone; a second at most."""
        ended, _ = ray.wait(list(self._running), num_returns=1, timeout=1.0)
        return [self._running.pop(reference) for reference in ended]

    def close(self) -> None:
        """Cancel what is running and leave the cluster."""
        for reference in self._running:
            ray.cancel(reference, force=True)
        self._running.clear()
        ray.shutdown()


def join(address: str, sweep: Sweep) -> RayCrew:
    """Join a cluster for a sweep.

    Raises:
        RecipeError: something is timed, and the sweep does not say where.
        StageError: there is no such cluster, or no node of it times.
    """
    if "ms" in sweep.objectives and sweep.machine is None:
        raise RecipeError(
            "objective ms: machines differ, so one node must time all files. Name its resource: `machine: timing`, and "
            "start that node with `ray start --address ... --resources '{\"timing\": 1}'`."
        )
    return RayCrew(address, sweep.machine if "ms" in sweep.objectives else None)


def work(task: str) -> int:
    """Run a worker on the node that Ray chose, and wait for it."""
    return start_worker(Path(task)).wait()
