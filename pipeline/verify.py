"""Stage verify: the checkpoint, reloaded in a fresh process, is what was trained (`reports/determinism.json`)."""

from pathlib import Path

from gmmxlnet.errors import CheckpointError
from gmmxlnet.utils.determinism import check_reload
from gmmxlnet.utils.files import write_json
from pipeline.params import load_params, point_to_base, run_stage

MODEL = Path("models/gmm")
REPORT = Path("reports/determinism.json")


def main() -> None:
    """Compare, report, and fail where anything differs."""
    params = load_params()
    point_to_base(params)
    report = check_reload(MODEL, params.seed)
    write_json(REPORT, report)
    if not report["bit_identical"]:
        raise CheckpointError(
            f"{MODEL}: reloaded, the model differs from the trained one in {len(report['differing_tensors'])} tensors "
            f"and by {report['max_abs_logit_diff']} in its logits; see {REPORT}, train again: dvc repro -f train"
        )
    if not report["negative_control_detected"]:
        raise CheckpointError(f"{MODEL}: a changed bit was not noticed, so the check proves nothing; this is a bug")
    print(f"verify: {report['tensors']} tensors and all logits bit-identical in a fresh process -> {REPORT}")


if __name__ == "__main__":
    run_stage(main)
