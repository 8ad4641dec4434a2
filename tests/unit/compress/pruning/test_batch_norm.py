import pytest
import torch
from torch import nn

from compress.pruning.batch_norm import reestimate_batch_norm

torch.set_num_threads(1)


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.03), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))


def test_statistics_become_the_average_over_the_batches():
    model = _model()
    batches = [torch.randn(2, 3, 8, 8) + shift for shift in (0.0, 1.0, 2.0)]
    assert reestimate_batch_norm(model, batches, 2) == 2
    means = [model[0](batch).mean((0, 2, 3)) for batch in batches[:2]]
    variances = [model[0](batch).var((0, 2, 3)) for batch in batches[:2]]
    torch.testing.assert_close(model[1].running_mean, sum(means) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, sum(variances) / 2, rtol=1e-4, atol=1e-5)


def test_everything_else_is_as_before():
    model = _model().train()
    model[2].eval()
    weights = [parameter.clone() for parameter in model.parameters()]
    reestimate_batch_norm(model, [torch.randn(2, 3, 8, 8)], 5)
    assert [module.training for module in model] == [True, True, False, True]
    assert model[1].momentum == 0.03
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_zero_batches_change_nothing_and_no_batch_is_an_error():
    model = _model()
    mean = model[1].running_mean.clone()
    assert reestimate_batch_norm(model, [torch.randn(2, 3, 8, 8)], 0) == 0
    with pytest.raises(ValueError, match="no batch"):
        reestimate_batch_norm(model, [], 3)
    assert torch.equal(model[1].running_mean, mean)
