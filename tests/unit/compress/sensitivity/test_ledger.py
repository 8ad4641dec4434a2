import pytest

from compress.sensitivity.ledger import BLOCK, Ledger, kept, measured
from compress.sensitivity.steps import Step

STEPS = [Step("weights", f"layer{number}", bits) for number in range(10) for bits in (3, 4, 5)]


def rows_of(block, watch):
    assert len(list(watch(range(4)))) == 4
    return {step.key: {"error": step.amount} for step in block}


def test_every_step_is_measured_once_in_blocks_of_neighbours(tmp_path):
    blocks = []

    def measure(block, watch):
        blocks.append(block)
        return rows_of(block, watch)

    rows = measured(tmp_path / "rows.jsonl", STEPS, measure, images=4, label="here")
    assert [step for block in blocks for step in block] == STEPS
    assert {len(block) for block in blocks} == {BLOCK, len(STEPS) % BLOCK}
    assert rows == {step.key: {"error": step.amount} for step in STEPS}


def test_what_was_measured_before_a_kill_is_not_measured_again(tmp_path):
    seen = []

    def until(limit):
        def measure(block, watch):
            if len(seen) >= limit:
                raise KeyboardInterrupt
            seen.extend(step.key for step in block)
            return rows_of(block, watch)

        return measure

    path = tmp_path / "rows.jsonl"
    for limit in (BLOCK, 2 * BLOCK):
        with pytest.raises(KeyboardInterrupt):
            measured(path, STEPS, until(limit), images=4, label="here")
        assert len(seen) == limit
    rows = measured(path, STEPS, until(len(STEPS)), images=4, label="here")
    assert seen == [step.key for step in STEPS]
    assert rows.keys() == set(seen)
    measured(path, STEPS, until(0), images=4, label="here")  # nothing is left


def test_a_line_cut_short_is_measured_again_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    Ledger(path).add({"a": {"error": 1.0}, "b": {"error": 2.0}})
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        again = Ledger(path)
        assert list(again.rows) == ["a", "b"][: whole[:size].count(b"\n")]
        again.add({"c": {"error": float("inf")}})
        assert Ledger(path).rows == again.rows


def test_a_line_that_is_no_row_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('[]\n{"key": 3}\nnonsense\n{"key": "a", "values": {"error": 1.0}}\n')
    assert Ledger(path).rows == {"a": {"error": 1.0}}


def test_a_plan_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"steps": [1, 2]}

    assert kept(tmp_path / "plan.json", make) == kept(tmp_path / "plan.json", make) == {"steps": [1, 2]}
    assert made == [1]
