"""Every kind of memory under bfloat16 autocast: it trains, it evaluates, and the state it carries stays in float32."""

import pytest
import torch


@pytest.mark.parametrize(
    ("memory_type", "settings"),
    [
        ("none", {}),
        ("mems", {"mem_len": 12}),
        ("words", {"mem_len": 12}),
        ("token", {}),
        ("gmm", {"routing_mode": "read-based", "pooling_method": "attention", "expert_dropout": 0.3}),
        *(("differentiable", {"pooling_method": pooling}) for pooling in ("mean", "max", "attention")),
    ],
    ids=str,
)
def test_it_trains_and_evaluates_in_bfloat16(tiny_model, document, batch_of, memory_type, settings):
    model = tiny_model(memory_type, **settings, memory_reconstruction_weight=1.0).float().train()
    slots = model.config.memory_num_tokens
    batch = batch_of([document(0, 3), document(1, 2)], slots=slots, labels=[None, None])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.eval()
    permutation = torch.tensor([1, 0])
    for ablation in ("normal", "zeroed", "reset", "shuffled"):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            output = model(**batch, memory_ablation=ablation, memory_permutation=permutation)
        assert output.start_logits.isfinite().all()
        for tensor in vars(output.memory_state).values() if output.memory_state else ():
            assert tensor.dtype in (torch.float32, torch.int64)
