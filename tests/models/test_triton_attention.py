"""The Triton kernel against `attend_fused` and plain torch, in Triton's interpreter: values, gradients, dropout, bits.

TRITON_INTERPRET has to be set before Triton is imported, so the kernel runs in a process of its own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="not installed: triton (it comes with torch's GPU builds)"
)

CHECK = '''
import sys
import numpy as np, torch
from gmmxlnet.models import attention
from gmmxlnet.models.triton_attention import attend_on_the_fly

def tensors(B, H, L, K, e, h):
    torch.manual_seed(1)
    shapes = [(B, H, L, e), (B, H, K, e), (B, H, K, h), (B, H, L, h), (H, K + L - 1, h)]
    return [torch.randn(shape).requires_grad_() for shape in shapes]

def philox(seed, counter):
    """Philox 4x32-10 (Salmon et al. 2011), its first word for each counter (c, 0, 0, 0), in (0, 1)."""
    c = [counter.astype(np.uint64)] + [np.zeros_like(counter, np.uint64) for _ in range(3)]
    low = np.uint64(2**32 - 1)
    key = [np.uint64(seed % 2**32), np.uint64(seed >> 32)]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ key[0], b & low, (a >> np.uint64(32)) ^ c[3] ^ key[1], a & low]
        key = [(key[0] + np.uint64(0x9E3779B9)) & low, (key[1] + np.uint64(0xBB67AE85)) & low]
    x = c[0].astype(np.uint32).view(np.int32).astype(np.int64)
    return np.where(x < 0, -x - 1, x).astype(np.float32) * np.float32(4.6566127342e-10)

def reference(q, k, v, dq, r, scale, dropout, seed):
    (B, H, L, _), K = q.shape, k.shape[2]
    scores = scale * (q @ k.transpose(2, 3) + attention._bias(dq, r, K))
    probs = scores.softmax(-1)
    if dropout:
        places = np.arange(L * K, dtype=np.uint32)
        kept = np.stack([philox(seed + head, places) >= np.float32(dropout) for head in range(B * H)])
        share = kept.mean()
        assert abs(share - (1 - dropout)) < 0.05, share
        probs = probs * torch.from_numpy(kept).view(B, H, L, K) / (1 - dropout)
    return probs @ v

def both(shape, scale, dropout, seed):
    mine, theirs = tensors(*shape), tensors(*shape)
    out = attend_on_the_fly(*mine, scale=scale, dropout=dropout, seed=seed)
    want = reference(*theirs, scale, dropout, seed)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    (out * weight).sum().backward()
    (want * weight).sum().backward()
    return [out, *(x.grad for x in mine)], [want, *(x.grad for x in theirs)]
'''


def run(body):
    """Run the checks with the interpreter, in a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CHECK + body], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    "shape",
    [(2, 2, 5, 5, 22, 16), (1, 2, 40, 40, 22, 16), (2, 1, 33, 70, 14, 8), (1, 1, 1, 9, 22, 16), (1, 1, 40, 33, 70, 64)],
)
def test_values_and_gradients_are_those_of_plain_torch(shape, dropout):
    run(f"""
for one, other in zip(*both({shape}, 0.3, {dropout}, 7)):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)
""")


def test_gradients_of_positions_are_summed_over_parts_of_the_documents():
    """Five documents at once, in parts of 3 and 2, and of 2, 2 and 1: the same gradient, and equal bits each time."""
    run("""
from gmmxlnet.models import triton_attention
sizes, found = [], []
for parts in (1, 2, 3, 3):
    triton_attention.PROGRAMS = parts * 2  # 22 distances are one block, of two heads
    sizes.append(triton_attention.documents_of_a_part(5, 2))
    mine, want = both((5, 2, 9, 14, 14, 8), 0.3, 0.3, 7)
    torch.testing.assert_close(mine[-1], want[-1], rtol=1e-4, atol=2e-5)
    found.append(mine[-1])
assert sizes == [5, 3, 2, 2], sizes
assert torch.equal(found[2], found[3])
assert not torch.equal(found[0], found[1])  # another order of additions: the parts were there

triton_attention.PROGRAMS = 8 * 132
assert triton_attention.documents_of_a_part(48, 24 * 12) == 12  # the benchmark's documents, blocks and heads: 4 parts
assert triton_attention.documents_of_a_part(1, 24 * 12) == triton_attention.documents_of_a_part(3, 1) == 1
assert triton_attention.documents_of_a_part(48, 5000) == 48
""")


def test_equal_inputs_give_equal_bits_and_other_seeds_other_dropout():
    run("""
first, again, other = (both((1, 2, 40, 40, 22, 16), 0.3, 0.3, seed)[0] for seed in (7, 7, 8))
assert all(torch.equal(a, b) for a, b in zip(first, again))
assert not any(torch.equal(a, b) for a, b in zip(first, other))
""")


def test_without_dropout_it_equals_what_gpus_use_by_default():
    run("""
mine, fused = tensors(1, 2, 37, 50, 22, 16), tensors(1, 2, 37, 50, 22, 16)
for given, attend in ((mine, attend_on_the_fly), (fused, attention.attend_fused)):
    (attend(*given, scale=0.3, dropout=0.0) ** 2).sum().backward()
for one, other in zip(mine, fused):
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=2e-5)
""")


def test_a_model_reads_the_same_with_it():
    """The whole model, two segments, through the setting that chooses the kernel."""
    out = run("""
import os
from gmmxlnet.models import GMMXLNetConfig, GMMXLNetForQA
def read(choice):
    os.environ["GMMXLNET_ATTENTION"] = choice
    torch.manual_seed(0)
    config = GMMXLNetConfig(vocab_size=50, d_model=16, n_head=2, n_layer=2, d_inner=32, initializer_range=0.5,
        dropout=0.0, memory_type="none", num_memory_experts=0)
    model = GMMXLNetForQA(config).eval()
    ids = torch.randint(5, 50, (2, 2, 12))
    mask = torch.ones_like(ids)
    mask[0, :, :3] = 0
    output = model(input_ids=ids, attention_mask=mask)
    (output.start_logits[mask.bool()] ** 2).sum().backward()
    return output.start_logits, [p.grad for p in model.parameters() if p.grad is not None]
logits, grads = read("triton")
want, want_grads = read("")
assert not torch.equal(logits, want)  # the kernel was used
torch.testing.assert_close(logits, want, rtol=1e-3, atol=1e-4)
for one, other in zip(grads, want_grads):
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
print("the same")
""")
    assert out.strip() == "the same"
