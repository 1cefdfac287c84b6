"""The discriminator, and its losses where they are known by hand."""

import math

import pytest
import torch

from uni_sign.models.stylegan_discriminator import (
    StyleGANDiscriminator,
    deviation,
    discriminator_losses,
    generator_losses,
    r1_penalties,
)


@pytest.mark.parametrize("size", [8, 32, 128])
def test_a_score_for_each_image(size: int) -> None:
    model = StyleGANDiscriminator(size, channels=16)
    scores = model(torch.rand(3, 3, size, size))
    assert scores.shape == (3,)
    scores.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("size", [0, 4, 48])
def test_other_sizes(size: int) -> None:
    with pytest.raises(ValueError, match="no power of two from 8"):
        StyleGANDiscriminator(size)


def test_losses_by_hand() -> None:
    nothing, sure = torch.zeros(2), torch.full((2,), 50.0)
    torch.testing.assert_close(discriminator_losses(nothing, nothing), torch.full((2,), 2 * math.log(2)))
    torch.testing.assert_close(generator_losses(nothing), torch.full((2,), math.log(2)))
    torch.testing.assert_close(discriminator_losses(sure, -sure), torch.zeros(2))
    torch.testing.assert_close(discriminator_losses(-sure, sure), torch.full((2,), 100.0))
    torch.testing.assert_close(generator_losses(-sure), sure)
    assert generator_losses(nothing.bfloat16()).dtype == torch.float32


def test_the_penalty_is_the_squared_slope() -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    slope = torch.randn(3, 4, 4)
    scores = (images * slope).sum(dim=(1, 2, 3)) * torch.tensor([1.0, 3.0])
    expected = slope.square().sum() * torch.tensor([1.0, 9.0])
    torch.testing.assert_close(r1_penalties(scores, images), expected)


def test_the_penalty_trains_the_discriminator_recomputed_or_not() -> None:
    gradients = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = StyleGANDiscriminator(16, channels=8).train()
        if recomputes:
            model.gradient_checkpointing_enable()
        images = torch.rand(2, 3, 16, 16, requires_grad=True)
        r1_penalties(model(images), images).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        assert gradients[-1][0].abs().sum() > 0
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (4, 4), (6, 3), (7, 1), (8, 4)])
def test_deviation_by_groups(batch: int, group: int) -> None:
    x = torch.randn(batch, 2, 3, 3)
    found = deviation(x)
    assert found.shape == (batch, 1, 3, 3)
    members = x[:: batch // group]  # those with the first one
    expected = (members.var(dim=0, correction=0) + 1e-8).sqrt().mean()
    torch.testing.assert_close(found[0], expected.expand(1, 3, 3))


def test_it_learns_to_tell_bright_from_dark() -> None:
    torch.manual_seed(0)
    model = StyleGANDiscriminator(8, channels=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        real, generated = torch.rand(4, 3, 8, 8), -torch.rand(4, 3, 8, 8)
        loss = discriminator_losses(model(real), model(generated)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
