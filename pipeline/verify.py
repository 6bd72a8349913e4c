"""Stage verify: the checkpoint is what was trained, and no damage to it goes unnoticed (`reports/determinism.json`)."""

from gmmxlnet.errors import CheckpointError
from gmmxlnet.messages import say
from gmmxlnet.utils.files import write_json
from gmmxlnet.verification import verify
from pipeline.base_model import point_to_base
from pipeline.params import load_params
from pipeline.places import DETERMINISM, MODEL
from pipeline.stage import run_stage


def main() -> None:
    """Verify in full, report, and fail where a check does."""
    params = load_params()
    point_to_base(params)
    report = verify(MODEL, "full", seed=params.seed)
    as_saved = {name: tensor["as_saved"] for name, tensor in report.tensors.items()}
    unloaded = {
        "bit_identical": False,
        "tensors": len(as_saved),
        "differing_tensors": [name for name, same in as_saved.items() if not same],
        "max_abs_logit_diff": None,
        "fresh_process": False,
        "negative_control_detected": False,
        "tensor_sha256": {name: tensor["sha256"] for name, tensor in report.tensors.items()},
    }
    checks = {check.name: {"passed": check.passed, "detail": check.detail} for check in report.checks}
    write_json(DETERMINISM, {**unloaded, **report.reload, "level": report.level, "checks": checks})
    if not report.passed:
        check = report.failures[0]
        raise CheckpointError(f"{check.name}: {check.detail}; see {DETERMINISM}, or train again: dvc repro -f train")
    say(f"verify: {len(checks)} checks passed on {len(as_saved)} tensors -> {DETERMINISM}")


if __name__ == "__main__":
    run_stage(main)
