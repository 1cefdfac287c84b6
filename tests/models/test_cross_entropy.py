"""The chunked loss: the numbers of the plain one, and never the logits of a whole batch."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from uni_sign.models.cross_entropy import OutputMatrix, output_matrix

PIECES, WIDTH = 50, 8


@pytest.fixture
def targets() -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, PIECES, (21,))


@pytest.fixture(params=[1, 4, 1000])
def rows_per_chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("uni_sign.models.cross_entropy._LOGITS_PER_CHUNK", request.param * PIECES)
    return int(request.param)


def heads() -> tuple[nn.Linear, OutputMatrix]:
    """The same weights, plain and ours."""
    torch.manual_seed(1)
    plain = nn.Linear(WIDTH, PIECES, bias=False)
    return plain, output_matrix(copy.deepcopy(plain))


def plain_loss(head: nn.Linear, rows: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(head(rows).float(), targets, reduction="sum", label_smoothing=smoothing)


def states() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    plain = torch.randn(21, WIDTH, requires_grad=True)
    return plain, plain.detach().clone().requires_grad_()


@pytest.mark.usefixtures("rows_per_chunk")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradients_are_those_of_the_plain_loss(targets: Tensor, smoothing: float) -> None:
    (plain, ours), (plain_states, our_states) = heads(), states()
    expected = plain_loss(plain, plain_states, targets, smoothing)
    (expected / 11).backward()
    loss = ours(our_states, targets, smoothing)
    (loss / 11).backward()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(our_states.grad, plain_states.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("rows_per_chunk")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_loses_no_more_than_the_plain_loss(targets: Tensor, dtype: torch.dtype, autocast: bool) -> None:
    (plain, ours), (plain_states, our_states) = heads(), states()
    plain_loss(plain, plain_states, targets, 0.2).backward()
    if not autocast:
        ours, our_states = ours.to(dtype), our_states.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        loss = ours(our_states, targets, 0.2)
    assert loss.dtype == torch.float32
    loss.backward()
    assert our_states.grad is not None
    assert ours.weight.grad is not None
    assert ours.weight.grad.dtype == ours.weight.dtype
    torch.testing.assert_close(our_states.grad.float(), plain_states.grad, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(ours.weight.grad.float(), plain.weight.grad, atol=4e-2, rtol=2e-2)


def test_gradients_too_small_for_fp16_survive_it() -> None:
    """Smoothing spreads 1e-7 over each of many pieces: of a size where fp16 has a bit or two left."""
    pieces = 400_000
    head = output_matrix(nn.Linear(2, pieces, bias=False))
    nn.init.zeros_(head.weight)
    half = copy.deepcopy(head).half()
    rows, targets = torch.ones(1, 2), torch.zeros(1, dtype=torch.long)
    (head(rows, targets, 0.1) * 1e3).backward()
    (half(rows.half(), targets, 0.1) * 1e3).backward()
    assert head.weight.grad is not None
    assert half.weight.grad is not None
    torch.testing.assert_close(half.weight.grad[1:].float(), head.weight.grad[1:], atol=0, rtol=5e-3)


def test_no_target_at_all_gives_a_loss_and_gradients_of_zero() -> None:
    (_, ours), (_, our_states) = heads(), states()
    loss = ours(our_states[:0], torch.zeros(0, dtype=torch.long), 0.2)
    loss.backward()
    assert loss.item() == 0
    assert our_states.grad is not None
    assert not our_states.grad.any()
    assert ours.weight.grad is not None
    assert not ours.weight.grad.any()


def test_frozen_weights_get_no_gradient_and_scoring_makes_none(targets: Tensor) -> None:
    (_, ours), (plain_states, our_states) = heads(), states()
    ours.weight.requires_grad_(False)
    ours(our_states, targets, 0.2).backward()
    assert ours.weight.grad is None
    assert our_states.grad is not None
    ours.weight.requires_grad_(True)
    with torch.no_grad():
        loss = ours(plain_states, targets, 0.2)
    assert not loss.requires_grad


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_logits_of_a_batch_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uni_sign.models.cross_entropy._LOGITS_PER_CHUNK", 4 * PIECES)
    (plain, ours), targets = heads(), torch.randint(0, PIECES, (300,))
    many = torch.randn(300, WIDTH, requires_grad=True)
    with _Largest() as seen:
        ours(many, targets, 0.2).backward()
    assert seen.elements == many.numel()
    with _Largest() as seen:
        plain_loss(plain, many, targets, 0.2).backward()
    assert seen.elements == len(targets) * PIECES


@pytest.mark.gpu
def test_the_fused_kernel_gives_the_same_numbers(targets: Tensor) -> None:
    pytest.importorskip("liger_kernel")
    (_, ours), (_, our_states) = heads(), states()
    loss = ours(our_states, targets, 0.2)
    loss.backward()
    fused, fused_states = copy.deepcopy(ours).cuda(), our_states.detach().cuda().requires_grad_()
    fused.weight.grad = None
    fused_loss = fused(fused_states, targets.cuda(), 0.2)
    assert "Liger" in fused_loss.grad_fn.name()
    fused_loss.backward()
    torch.testing.assert_close(fused_loss.cpu(), loss, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(fused_states.grad.cpu(), our_states.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fused.weight.grad.cpu(), ours.weight.grad, atol=1e-5, rtol=1e-4)
