"""The GPU's path on a CPU: what torch's memory-efficient kernel asks for, and training with the same shapes."""

from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F  # noqa: N812 (the field's name for it)
from torch.utils._python_dispatch import TorchDispatchMode

from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.errors import ConfigError
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


@pytest.mark.parametrize("attend", [attention.attend_fused, attention.attend_aligned])
@pytest.mark.parametrize("head_size", HEAD_SIZES)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profiles_shapes_suit_the_memory_efficient_kernel(fused_calls, profile, head_size, attend):
    longest = PROFILES[profile]["max_seq_length"]
    for length in (longest, longest - 3):  # batches are as long as their longest segment
        L = length + -length % attention.length_multiple(torch.device("cuda"))
        for K in (L, 2 * L):  # with a cache before the segment
            e = head_size + NUM_SEGMENT_IDS + 1
            shapes = [(2, 2, L, e), (2, 2, K, e), (2, 2, K, head_size), (2, 2, L, head_size), (2, K + L - 1, head_size)]
            inputs = [torch.empty(shape, device="meta", dtype=torch.bfloat16) for shape in shapes]
            attend(*inputs, scale=head_size**-0.5, dropout=0.1)
            assert_memory_efficient(*fused_calls.pop())


SHAPES = [(2, 3, 16, 16), (2, 2, 16, 40), (1, 2, 5, 5), (2, 1, 7, 12), (3, 2, 1, 9), (1, 1, 1, 1)]  # B, H, L, K


def values_and_gradients(attend, shape, *, dropout=0.0):
    """Of heads of 8, with queries and keys of 16; tensors lie in memory as the encoder's do."""
    B, H, L, K = shape
    torch.manual_seed(5)
    sizes = [(B, L, H, 16), (B, K, H, 16), (B, K, H, 8), (B, L, H, 8)]
    inputs = [torch.randn(size, dtype=torch.float64).transpose(1, 2) for size in sizes]
    inputs.append(torch.randn(K + L - 1, H, 8, dtype=torch.float64).transpose(0, 1))
    weight = torch.randn(B, H, L, 8, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in inputs]
    out = attend(*leaves, scale=0.3, dropout=dropout)
    return [out.detach(), *torch.autograd.grad(out, leaves, weight)]


@pytest.fixture
def poisoned(monkeypatch):
    """What torch does not initialize is NaN: a place that is read but not written is seen."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", SHAPES)
def test_aligned_products_give_the_same_values_and_gradients(shape):
    expected = values_and_gradients(attention.attend_fused, shape)
    found = values_and_gradients(attention.attend_aligned, shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_aligned_products_give_equal_bits_for_equal_inputs():
    found, again = (values_and_gradients(attention.attend_aligned, (2, 3, 16, 40), dropout=0.2) for _ in range(2))
    assert all(map(torch.equal, found, again))


class Operations(TorchDispatchMode):
    """Collects the names of torch's operations, and the tensors of batched products: both factors, and the result."""

    def __init__(self):
        super().__init__()
        self.names, self.products = [], []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        self.names.append(operation.overloadpacket.__name__)
        if self.names[-1] == "bmm":
            self.products.append((*args, out))
        return out


def is_aligned(matrices):
    return 1 in matrices.stride()[1:] and all(stride % 8 == 0 for stride in matrices.stride() if stride != 1)


@pytest.mark.parametrize("lengths", [(16, 16), (16, 40), (24, 56)])
def test_all_products_of_the_aligned_bias_are_aligned_and_nothing_is_scattered(lengths):
    L, K = lengths
    query = torch.randn(2, L, 3, 8).transpose(1, 2).requires_grad_()
    position = torch.randn(L + K, 3, 8).transpose(0, 1).requires_grad_()
    with Operations() as seen:
        bias = attention._AlignedBias.apply(query, position, K)
        torch.autograd.grad(bias, (query, position), torch.randn(bias.shape))
    assert len(seen.products) == 3
    assert all(is_aligned(matrices) for product in seen.products for matrices in product)
    assert not {name for name in seen.names if "scatter" in name or "index" in name}
    assert seen.names.count("copy_") == 2
    with Operations() as seen:
        attention.scores_by_distance(query, position[:, :-1])
    assert not is_aligned(seen.products[0][2])  # as it is without padding


def test_the_model_gives_fused_attention_aligned_sizes(make_model, dev_documents, monkeypatch):
    """Nothing is left to pad in each layer."""
    on_gpu_path(monkeypatch)
    sizes, original = [], encoder.relative_attention

    def recorded(query, key, *rest, **options):
        sizes.append((query.shape[-1] % 8, key.shape[-1] % 8))
        return original(query, key, *rest, **options)

    monkeypatch.setattr(encoder, "relative_attention", recorded)
    batch = DocumentCollator(layout=dev_documents.layout, memory_tokens=True, pad_to_multiple_of=8)([dev_documents[0]])
    make_model()(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
    assert set(sizes) == {(0, 0)}


def test_an_unknown_implementation_is_refused(monkeypatch):
    monkeypatch.setenv("GMMXLNET_ATTENTION", "alined")
    with pytest.raises(ConfigError, match="GMMXLNET_ATTENTION=alined: unknown; set it to blocks, fused, aligned or"):
        attention.relative_attention(*(torch.zeros(1, 1, 1, 8) for _ in range(5)), scale=1.0, dropout=0.0)


@pytest.mark.parametrize("implementation", ["", "fused", "aligned"])
def test_training_on_the_gpu_path_asks_for_the_kernel_and_gives_the_same_gradients(
    make_model, dev_documents, monkeypatch, implementation
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
    monkeypatch.setenv("GMMXLNET_ATTENTION", implementation)
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
