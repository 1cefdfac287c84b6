"""Products of a few rows: the same numbers as `F.linear`, and only where they are wanted."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uni_sign.models import few_rows
from uni_sign.models.few_rows import FewRows, few_rows_linear


@pytest.mark.parametrize("shape", [(1, 8), (3, 8), (4, 1, 8), (2, 3, 4, 8)])
@pytest.mark.parametrize("rows_of_weight", [1, 7, 2048, 5000])
@pytest.mark.parametrize("biased", [False, True])
def test_the_same_as_linear(shape: tuple[int, ...], rows_of_weight: int, biased: bool) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(shape), torch.randn(rows_of_weight, shape[-1])
    bias = torch.randn(rows_of_weight) if biased else None
    made = few_rows_linear(rows, weight, bias)
    torch.testing.assert_close(made, F.linear(rows, weight, bias), rtol=1e-5, atol=1e-5)
    assert made.is_contiguous()


def test_it_takes_few_rows_without_gradients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def noted(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        taken.append(len(rows))
        return few_rows_linear(rows, weight, bias)

    monkeypatch.setattr(few_rows, "few_rows_linear", noted)
    layer = torch.nn.Linear(4, 3)
    with FewRows():
        layer(torch.ones(5, 4)).sum().backward()
        with torch.no_grad():
            layer(torch.ones(33, 4))
            layer.double()(torch.ones(6, 4, dtype=torch.float64))
            layer.float()
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(torch.ones(7, 4)).dtype == torch.bfloat16
            layer(torch.ones(32, 4))
            F.linear(torch.ones(8, 4), layer.weight)
    with torch.no_grad():
        layer(torch.ones(9, 4))
    assert taken == [32, 8]
    assert layer.weight.grad is not None
