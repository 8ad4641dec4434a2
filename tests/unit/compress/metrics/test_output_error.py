import math

import numpy as np
import pytest

from compress.metrics.output_error import OutputErrors, relative_error


def test_errors_of_all_batches_together_are_those_of_one_large_batch():
    rng = np.random.default_rng(0)
    expected = [rng.normal(size=(6, 4, 5)).astype(np.float32), 100 * rng.normal(size=(6, 2)).astype(np.float32)]
    found = [value + 0.1 * rng.normal(size=value.shape).astype(np.float32) for value in expected]
    errors = OutputErrors(2)
    for i in range(0, 6, 2):
        errors.add([value[i : i + 2] for value in found], [value[i : i + 2] for value in expected])
    whole = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, expected, strict=True)]
    assert errors.each == pytest.approx(whole, rel=1e-5)
    assert errors.together == pytest.approx(math.sqrt((whole[0] ** 2 + whole[1] ** 2) / 2), rel=1e-5)


@pytest.mark.parametrize(
    ("found", "expected", "error"), [(0.0, 0.0, 0.0), (1.0, 0.0, 1.0), (math.nan, 1.0, math.inf), (2.0, 1.0, 1.0)]
)
def test_outputs_that_are_zero_or_no_numbers_have_an_error(found, expected, error):
    errors = OutputErrors(1)
    errors.add([np.array([found])], [np.array([expected])])
    assert errors.each == [error] == [relative_error(np.array([found]), np.array([expected]))]
