"""Dropout: the share it leaves out, the scale of the rest, the same in backward, and from torch's generator."""

import pytest
import torch

from gmmxlnet.models.dropout import Dropout, keep_mask


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_scale(p):
    torch.manual_seed(0)
    x = torch.ones(1000, 301, requires_grad=True)
    out = Dropout(p)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
    assert out.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    rows = (out == 0).float().mean(1)
    assert rows.std().item() == pytest.approx((p * (1 - p) / 301) ** 0.5, rel=0.2)  # as independent draws have it


def test_nothing_to_do():
    x = torch.randn(3, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_seeded_by_torch():
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(keep_mask((5, 7), 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
