"""Look at what the experts of a trained model do: use, sharpness, steadiness, and the words that each is given.

    python examples/analyze_gmm_experts.py --model outputs/gmm-xlnet --output outputs/routing

The model is one that `train_with_gmm_memory.py` or the train stage made.
"""

import argparse
from pathlib import Path

from torch.utils.data import DataLoader

from gmmxlnet.analysis.experts import expert_profiles
from gmmxlnet.analysis.plots import save_figure
from gmmxlnet.data.dataset import ChunkedSquadDataset
from gmmxlnet.data.tokenizer import load_tokenizer
from gmmxlnet.models import GMMXLNetForQA
from gmmxlnet.utils import GMMAnalyzer, plot_entropy_timeline, plot_expert_utilization, plot_routing_heatmap


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="outputs/gmm-xlnet", help="a folder or a Hub id")
    parser.add_argument("--dataset", default="data/sample", help="a folder with train.json and dev.json, or a Hub id")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--output", default="outputs/routing", help="folder for the plots")
    arguments = parser.parse_args()

    model = GMMXLNetForQA.from_pretrained(arguments.model)
    layout = model.config.segment_layout  # as in training
    dev = ChunkedSquadDataset(
        "validation",
        load_tokenizer(arguments.model),
        max_seq_length=layout["max_seq_length"],
        max_n_segs=1,  # more are shown where a document has more
        dataset=arguments.dataset,
        doc_stride=layout["doc_stride"],
        max_question_length=layout["max_seq_length"] // 4,
        max_documents=arguments.documents,
    )
    analyzer = GMMAnalyzer(model)
    stats = analyzer.track_routing(DataLoader(dev, batch_size=16))

    print(f"use of the experts: {', '.join(f'{share:.2f}' for share in stats['expert_utilization'])}")
    print(f"routing entropy: {stats['mean_entropy']:.3f} nats (standard deviation {stats['std_entropy']:.3f})")
    print(f"consistency of neighboring segments: {analyzer.compute_routing_consistency():.2f}")
    pattern = analyzer.pattern()
    print(f"pattern: {pattern.name}. {pattern.advice}")
    for profile in expert_profiles(dev.documents, analyzer.table):
        words = ", ".join(word for word, _ in profile.words) or "none stands out"
        print(f"expert {profile.expert}: {words}")

    figures = {
        "heatmap": plot_routing_heatmap(analyzer.routing_data),
        "utilization": plot_expert_utilization(stats["expert_utilization"]),
        "entropy": plot_entropy_timeline(analyzer.routing_data),
    }
    for name, figure in figures.items():
        save_figure(figure, Path(arguments.output) / f"{name}.png")
    print(f"plots are in {arguments.output}")


if __name__ == "__main__":
    main()
