"""A sweep on a cluster of several nodes on this machine: one is killed in the middle, and the front stays the same."""

import json
import os

import pytest
from real_run import ROOT
from sweep_run import end_sweep, front_of, made, start_sweep, wait_for_files, write_sweep


@pytest.fixture
def cluster():
    """Return a cluster: a head that times, and two nodes that work."""
    from ray.cluster_utils import Cluster

    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), kept]))  # its nodes have no installed package
    head = {"num_cpus": 1, "resources": {"timing": 1}, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made
    finally:
        made.shutdown()
        os.environ.pop("PYTHONPATH")
        if kept is not None:
            os.environ["PYTHONPATH"] = kept


def test_a_node_that_is_killed_in_the_middle_changes_nothing(cluster, tmp_path):
    sweep = write_sweep(tmp_path)
    end_sweep(start_sweep(sweep, tmp_path / "calm", "--workers", "2"))
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    process = start_sweep(sweep, tmp_path / "out", "--ray", cluster.address)
    wait_for_files(tmp_path / "out" / "tiny" / "shared", "export_onnx-*/.scratch", process)
    before = made(tmp_path / "out")
    cluster.remove_node(nodes[0], allow_graceful=False)
    text = end_sweep(process, 1500)
    after, calm = made(tmp_path / "out"), made(tmp_path / "calm")
    assert "its worker is gone; another one takes over" in text
    assert {name: after[name] for name in before} == before
    assert {name: digest for name, (digest, _) in after.items()} == {name: digest for name, (digest, _) in calm.items()}
    assert front_of(tmp_path / "out") == front_of(tmp_path / "calm")


def test_one_node_times_all_files_after_they_were_made_anywhere(cluster, tmp_path):
    cluster.add_node(num_cpus=1)
    sweep = write_sweep(tmp_path, bits="[3, 4]", objectives="[bytes, ms]", more="machine: timing\n")
    end_sweep(start_sweep(sweep, tmp_path / "out", "--ray", cluster.address))
    document = json.loads((tmp_path / "out" / "tiny" / "front.json").read_text())
    assert [trial["ms"] > 0 and trial["reference_ms"] > 0 for trial in document["trials"]] == [True, True]


@pytest.mark.parametrize(
    ("more", "told"), [("", "Name its resource: `machine: timing`"), ("machine: fast\n", "'fast'")]
)
def test_a_time_without_a_node_that_times_is_refused(cluster, tmp_path, more, told):
    sweep = write_sweep(tmp_path, objectives="[bytes, ms]", more=more)
    process = start_sweep(sweep, tmp_path / "out", "--ray", cluster.address)
    text, _ = process.communicate(timeout=300)
    assert process.returncode in (2, 4)
    assert told in text
