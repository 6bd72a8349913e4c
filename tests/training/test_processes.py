"""Two processes that share a batch find the gradient of one that has it alone; float64, all losses."""

import datetime

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.documents import Documents
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.utils.processes import Processes

SETTINGS = [
    {"memory_type": "gmm", "load_balance_weight": 0.3, "entropy_regularization_weight": 0.2},
    {"memory_type": "gmm", "load_balance_weight": 0.3, "span_loss": "document", "bptt_segments": 1},
    {"memory_type": "none", "span_loss": "document"},
    {"memory_type": "differentiable", "memory_heads": 2},
]
BATCHES = [
    [0, 5, 30, 9, 12],
    [30, 7],
    [3],
]  # of one segment and of several; fewer than processes


def test_alone_is_everything():
    alone = Processes.current()
    assert (alone.index, alone.count, alone.is_main) == (0, 1, True)
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.sum(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_shares_make_up_the_batch(sample_chunks, size):
    documents = Documents.open(sample_chunks, "train")
    chosen = [documents[i] for i in range(size)]
    whole = DocumentCollator(layout=documents.layout, memory_tokens=True)(chosen)
    shares = [
        DocumentCollator(layout=documents.layout, memory_tokens=True, processes=Processes(i, 2))(chosen)
        for i in range(2)
    ]
    read = sorted(index for share in shares for index in share["document_index"].tolist())
    copies = 2 if size == 1 else 1
    assert read == sorted(copies * whole["document_index"].tolist())
    for share in shares:
        assert share["num_tokens"] == whole["attention_mask"].sum()
        assert share["active_documents"].sum() == copies * whole["num_segments"].sum()
        assert share["active_documents"][0] == copies * size


@pytest.mark.slow
def test_two_processes_find_the_gradient_of_one(sample_chunks, make_model, tmp_path):
    models = [str(tmp_path / str(i)) for i in range(len(SETTINGS))]
    for folder, settings in zip(models, SETTINGS, strict=True):
        make_model(**settings, memory_reconstruction_weight=0.5).double().save_pretrained(folder)
    torch.multiprocessing.spawn(compare, (str(sample_chunks), models, str(tmp_path / "store")), nprocs=2)


def compare(index, folder, models, store):
    """In each of the two processes: its share's gradient, averaged by DDP, against the whole batch's."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{store}", rank=index, world_size=2, timeout=datetime.timedelta(seconds=120)
    )
    documents = Documents.open(folder, "dev")
    counts = documents.num_segments()[[30, 7]].tolist()
    assert counts[0] == 1 < counts[1]
    for path in models:
        alone = GMMXLNetForQA.from_pretrained(path, dtype=torch.float64).train()
        shared = GMMXLNetForQA.from_pretrained(path, dtype=torch.float64).train()
        wrapped = DistributedDataParallel(shared, find_unused_parameters=True)
        layout = {"layout": documents.layout, "memory_tokens": alone.config.has_memory_tokens}
        for batch in BATCHES:
            chosen = [documents[i] for i in batch]
            alone.zero_grad()
            wrapped.zero_grad()
            whole = alone(**DocumentCollator(**layout)(chosen))
            whole.loss.backward()
            part = wrapped(**DocumentCollator(**layout, processes=Processes.current())(chosen))
            part.loss.backward()
            mean = Processes.current().sum(part.loss.detach().clone()) / 2
            torch.testing.assert_close(mean, whole.loss.detach(), rtol=1e-10, atol=1e-10)
            for (name, expected), (_, found) in zip(alone.named_parameters(), shared.named_parameters(), strict=True):
                nothing = torch.zeros_like(expected)
                torch.testing.assert_close(
                    nothing if found.grad is None else found.grad,
                    nothing if expected.grad is None else expected.grad,
                    rtol=1e-10,
                    atol=1e-10,
                    msg=lambda text, name=name, path=path: f"{path} {name}: {text}",
                )
    torch.distributed.destroy_process_group()
