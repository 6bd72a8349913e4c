"""Two processes that share a batch find the gradient of one that has it alone; float64, all losses."""

import datetime
from itertools import product

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from gmmxlnet.data.collator import DocumentCollator
from gmmxlnet.data.documents import Documents
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.training.trainer import whole_model
from gmmxlnet.utils.processes import Processes

SETTINGS = [
    {"memory_type": "gmm", "load_balance_weight": 0.3, "entropy_regularization_weight": 0.2},
    {"memory_type": "gmm", "load_balance_weight": 0.3, "span_loss": "document", "bptt_segments": 1},
    {"memory_type": "none", "span_loss": "document"},
    {"memory_type": "mems", "mem_len": 48},
    {"memory_type": "words", "mem_len": 48},
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
        make_model(
            **settings, memory_reconstruction_weight=0.5, memory_association_weight=0.3
        ).double().save_pretrained(folder)
    torch.multiprocessing.spawn(compare, (str(sample_chunks), models, f"file://{tmp_path}/store"), nprocs=2)


def compare(index, folder, models, meeting):
    """In each of the two processes: its share's gradient, averaged by DDP and by FSDP, against the whole batch's."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", meeting, rank=index, world_size=2, timeout=datetime.timedelta(seconds=120)
    )
    documents = Documents.open(folder, "dev")
    counts = documents.num_segments()[[30, 7]].tolist()
    assert counts[0] == 1 < counts[1]
    for path in models:
        alone, replicated, sharded = (
            GMMXLNetForQA.from_pretrained(path, dtype=torch.float64).train() for _ in range(3)
        )
        wrapped = DistributedDataParallel(replicated, find_unused_parameters=True)
        fully_shard(sharded, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
        layout = {"layout": documents.layout, "memory_tokens": alone.config.has_memory_tokens}
        for again, batch in product((False, True), BATCHES):
            replicated.gradient_checkpointing = sharded.gradient_checkpointing = again
            chosen = [documents[i] for i in batch]
            share = DocumentCollator(**layout, processes=Processes.current())(chosen)
            alone.zero_grad()
            whole = alone(**DocumentCollator(**layout)(chosen))
            whole.loss.backward()
            for model, parameters in ((wrapped, replicated), (sharded, sharded)):
                model.zero_grad()
                part = model(**share)
                part.loss.backward()
                mean = Processes.current().sum(part.loss.detach().clone()) / 2
                torch.testing.assert_close(mean, whole.loss.detach(), rtol=1e-10, atol=1e-10)
                same_gradients(alone, parameters)
        collected = whole_model(sharded)
        if index == 0:
            same_weights(alone, collected)
    torch.distributed.destroy_process_group()


def same_gradients(expected, found):
    for (name, one), (_, other) in zip(expected.named_parameters(), found.named_parameters(), strict=True):
        nothing, grad = (
            torch.zeros_like(one),
            other.grad.full_tensor() if isinstance(other, DTensor) and other.grad is not None else other.grad,
        )
        torch.testing.assert_close(
            nothing if grad is None else grad,
            nothing if one.grad is None else one.grad,
            rtol=1e-10,
            atol=1e-10,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def same_weights(expected, found):
    assert all(torch.equal(x, y) for x, y in zip(expected.parameters(), found.parameters(), strict=True))
