"""The GPU's path on a CPU: what torch's memory-efficient kernel asks for, and training with the same shapes."""

from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.models import attention, encoder
from gmmxlnet.models.encoder import NUM_SEGMENT_IDS

PROFILES = yaml.safe_load((Path(__file__).resolve().parents[2] / "params.yaml").read_text(encoding="utf-8"))["profiles"]
HEAD_SIZES = (8, 16, 32, 64)  # of the sample's encoder, of converted and of pretrained ones, of xlnet-base and -large


def on_gpu_path(monkeypatch):
    for module in (attention, encoder):
        monkeypatch.setattr(module, "is_fused", lambda device: True)


@pytest.fixture
def fused_calls(monkeypatch):
    """Use the GPU's path; returns the arguments of torch's fused attention as a list that grows."""
    on_gpu_path(monkeypatch)
    calls, original = [], F.scaled_dot_product_attention

    def recorded(query, key, value, **options):
        calls.append((query, key, value, options["attn_mask"]))
        return original(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    return calls


def assert_memory_efficient(query, key, value, bias):
    """torch's conditions (aten/src/ATen/native/transformers: sdp_utils.cpp, `preprocess_mask`, `pad_bias`).

    `torch.backends.cuda.can_use_efficient_attention` cannot be asked here: it refuses tensors that are not on a GPU.
    """
    assert query.shape[-1] == key.shape[-1]
    assert query.shape[-1] % 8 == value.shape[-1] % 8 == 0
    assert query.dtype == key.dtype == value.dtype == bias.dtype
    assert all(x.stride(-1) == 1 for x in (query, key, value, bias))
    assert bias.shape == (*query.shape[:3], key.shape[2])
    assert all(stride % 8 == 0 for stride in bias.stride()[:-1])  # or torch copies it
    assert bias.storage_offset() % 8 == 0


@pytest.mark.parametrize("head_size", HEAD_SIZES)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profiles_shapes_suit_the_memory_efficient_kernel(fused_calls, profile, head_size):
    longest = PROFILES[profile]["max_seq_length"]
    for length in (longest, longest - 3):  # batches are as long as their longest segment
        L = length + -length % attention.length_multiple(torch.device("cuda"))
        for K in (L, 2 * L):  # with a cache before the segment
            e = head_size + NUM_SEGMENT_IDS + 1
            shapes = [(2, 2, L, e), (2, 2, K, e), (2, 2, K, head_size), (2, 2, L, head_size), (2, K + L - 1, head_size)]
            inputs = [torch.empty(shape, device="meta", dtype=torch.bfloat16) for shape in shapes]
            attention.attend_fused(*inputs, scale=head_size**-0.5, dropout=0.1)
            assert_memory_efficient(*fused_calls.pop())


def test_training_on_the_gpu_path_asks_for_the_kernel_and_gives_the_same_gradients(
    make_model, dev_documents, monkeypatch
):
    collate = DocumentCollator(layout=dev_documents.layout, memory_tokens=True, pad_to_multiple_of=8)
    batch = collate([dev_documents[i] for i in range(3)])
    assert batch["input_ids"].shape[-1] % 8 == 0
    wanted = ("input_ids", "attention_mask", "token_type_ids", "num_segments", "start_positions", "end_positions")
    inputs = {name: batch[name] for name in wanted}

    def losses_and_gradients():
        model = make_model().double().train()
        loss = model(**inputs).loss
        loss.backward()
        return [loss.detach(), *(x.grad for x in model.parameters() if x.grad is not None)]

    expected = losses_and_gradients()
    calls, original = [], F.scaled_dot_product_attention

    def recorded(query, key, value, **options):
        calls.append((query, key, value, options["attn_mask"]))
        return original(query, key, value, **options)

    on_gpu_path(monkeypatch)
    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    torch.testing.assert_close(losses_and_gradients(), expected, rtol=0, atol=1e-10)
    assert len(calls) == int(batch["num_segments"].max())
    for call in calls:
        assert_memory_efficient(*call)


def test_under_autocast_everything_is_in_16_bits(make_model, dev_documents, fused_calls):
    collate = DocumentCollator(layout=dev_documents.layout, memory_tokens=True, pad_to_multiple_of=8)
    batch = collate([dev_documents[0]])
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
    assert torch.isfinite(output.start_logits[0, 0][batch["attention_mask"][0, 0].bool()]).all()
    assert {x.dtype for call in fused_calls for x in call} == {torch.bfloat16}


def test_padding_to_a_multiple_moves_nothing_but_the_padding(dev_documents):
    documents = [dev_documents[i] for i in (0, 4)]
    plain = DocumentCollator(layout=dev_documents.layout, memory_tokens=True)(documents)
    padded = DocumentCollator(layout=dev_documents.layout, memory_tokens=True, pad_to_multiple_of=7)(documents)
    more = padded["input_ids"].shape[-1] - plain["input_ids"].shape[-1]
    assert padded["input_ids"].shape[-1] % 7 == 0
    assert 0 < more < 7
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(padded[name][..., more:], plain[name])
    assert not padded["attention_mask"][..., :more].any()
    known = plain["start_positions"] >= 0
    assert torch.equal(padded["start_positions"][known], plain["start_positions"][known] + more)
