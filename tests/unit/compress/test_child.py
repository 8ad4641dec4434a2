"""Stages run in forked children, whatever the calling program did before."""

import json
import subprocess
import sys

AFTER_TORCH = """
import json, signal, sys, threading
from pathlib import Path
import torch
from compress.engine.child import run_in_child
from compress.errors import CompressError

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
torch.set_num_threads(2)
large = torch.rand(4_000_000)
large.exp().sum()  # OpenMP has threads now

def work():
    assert threading.current_thread() is threading.main_thread()
    if sys.argv[2] == "interrupted":
        signal.raise_signal(signal.SIGINT)
    if sys.argv[2] == "killed":
        signal.raise_signal(signal.SIGKILL)
    return {"sum": float(torch.ones(4_000_000).mul(2).sum())}

try:
    outcome = run_in_child(work, label="s", seed=0, result=Path(sys.argv[1]))
    print(json.dumps({"facts": outcome.facts, "threads": threading.active_count()}))
except (CompressError, KeyboardInterrupt) as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error)}))
"""


def answer(tmp_path, what):
    """Return what the program above says; without its precaution the child waits for ever."""
    command = [sys.executable, "-c", AFTER_TORCH, str(tmp_path / "result.json"), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def test_a_stage_can_use_torch_after_the_program_that_calls_has(tmp_path):
    assert answer(tmp_path, "nothing") == {"facts": {"sum": 8_000_000.0}, "threads": 1}


def test_its_ctrl_c_and_its_death_are_told_there_too(tmp_path):
    assert answer(tmp_path, "interrupted")["error"] == "KeyboardInterrupt"
    assert "killed by SIGKILL" in answer(tmp_path, "killed")["text"]
