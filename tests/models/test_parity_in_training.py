"""The fast ways compute what the plain ones do: the same losses and gradient norms over 50 steps, in float64."""

import pytest
import torch

from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA, attention, encoder
from gmmxlnet.models.attention import attend_fused

STEPS, V, L = 50, 40, 20


def batches():
    generator = torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        ids = torch.randint(6, V, (3, 2, L), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, :, :5] = 0
        types = torch.zeros_like(ids)
        types[..., -6:], types[..., -1] = 1, 2
        labels = torch.randint(5, L - 6, (2, 3, 2), generator=generator)
        yield dict(
            input_ids=ids,
            attention_mask=mask,
            token_type_ids=types,
            num_segments=torch.tensor([2, 2, 1]),
            start_positions=labels.amin(0),
            end_positions=labels.amax(0),
        )


def losses_and_gradient_norms(memory):
    torch.manual_seed(1)
    size = dict(vocab_size=V + 4, d_model=16, n_layer=2, n_head=2, d_inner=32, dropout=0.0, initializer_range=0.2)
    model = GMMXLNetForQA(GMMXLNetConfig(**size, **memory, memory_reconstruction_weight=0.5)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    record = []
    for batch in batches():
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        record.append((loss.item(), norm.item()))
    return torch.tensor(record)


@pytest.mark.parametrize(
    "memory",
    [dict(memory_type="none"), dict(memory_type="gmm", num_memory_experts=2, memory_slots=2)],
    ids=["none", "gmm"],
)
def test_attention_in_blocks(memory, monkeypatch):
    monkeypatch.setattr(attention, "QUERIES", 8)
    fast = losses_and_gradient_norms(memory)
    monkeypatch.setattr(encoder, "relative_attention", attend_fused)
    torch.testing.assert_close(fast, losses_and_gradient_norms(memory), rtol=1e-10, atol=1e-10)
