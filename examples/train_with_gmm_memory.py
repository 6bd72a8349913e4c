"""Train a GMM model with the library alone: no stages, no DVC.

    python examples/train_with_gmm_memory.py        # the sample and a small encoder: minutes on one CPU core
    python examples/train_with_gmm_memory.py --dataset rajpurkar/squad_v2 --base-model xlnet/xlnet-base-cased

The second wants a GPU and the Hub.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from transformers import XLNetConfig, XLNetForQuestionAnsweringSimple, XLNetTokenizerFast

from gmmxlnet.data.dataset import ChunkedSquadDataset
from gmmxlnet.data.tokenizer import add_memory_tokens, load_tokenizer, scratch_tokenizer
from gmmxlnet.evaluation.evaluator import QAEvaluator
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.training import GMMTrainer, GMMTrainingConfig
from gmmxlnet.utils.seeding import seed_everything


def small_encoder(folder: Path) -> tuple[XLNetForQuestionAnsweringSimple, XLNetTokenizerFast]:
    """An XLNet with random weights and a vocabulary of the dataset's own words."""
    articles = json.loads((folder / "train.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    texts = [text for p in paragraphs for text in (p["context"], *(qa["question"] for qa in p["qas"]))]
    tokenizer = scratch_tokenizer(texts)
    size = {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128, "initializer_range": 0.2, "dropout": 0.0}
    return XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(tokenizer), **size)), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", default="data/sample", help="a folder with train.json and dev.json, or a Hub id")
    parser.add_argument("--base-model", help="a pretrained XLNet; a small one from scratch when left out")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", default="outputs/gmm-xlnet")
    arguments = parser.parse_args()

    config = GMMTrainingConfig(
        use_gmm_memory=True,
        num_memory_experts=4,
        memory_num_tokens=4,
        memory_reconstruction_weight=1.0,
        max_steps=arguments.steps,
        batch_size=16,
        learning_rate=3e-5 if arguments.base_model else 1e-3,
        output_dir=arguments.output,
    )
    seed_everything(config.seed)
    lengths: dict[str, Any]
    if arguments.base_model:
        base = XLNetForQuestionAnsweringSimple.from_pretrained(arguments.base_model)
        tokenizer = load_tokenizer(arguments.base_model)
        lengths = {"max_seq_length": 384, "doc_stride": 64, "max_question_length": 64}
    else:
        base, tokenizer = small_encoder(Path(arguments.dataset))
        lengths = {"max_seq_length": 56, "doc_stride": 4, "max_question_length": 12}

    model = GMMXLNetForQA(
        base_model=base,
        num_experts=config.num_memory_experts,
        memory_slots=config.memory_num_tokens,
        routing_mode=config.routing_mode,
    )
    add_memory_tokens(tokenizer, config.memory_num_tokens)
    train, dev = (
        ChunkedSquadDataset(split, tokenizer, max_n_segs=4, dataset=arguments.dataset, **lengths)
        for split in ("train", "validation")
    )
    GMMTrainer(model, config).train(train)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)

    results = QAEvaluator(model, tokenizer, show_progress=True).evaluate(dev)
    floor = results["always_no_answer"]["exact_match"]
    print(f"EM {results['exact_match']:.1f}, F1 {results['f1']:.1f} (always “no answer”: {floor:.1f})")
    print(f"the model is in {arguments.output}")


if __name__ == "__main__":
    main()
