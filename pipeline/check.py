"""Stage check: every parameter is right, before DVC removes an output of a stage that would refuse it.

DVC deletes a stage's outputs and then runs it. This stage comes first and depends on all of `params.yaml`; what it
leaves (`reports/check.json`) is always the same, so no other stage runs again because of it.
"""

from gmmxlnet.errors import ConfigError
from gmmxlnet.utils.files import write_json
from pipeline.params import load_params
from pipeline.places import CHECK_REPORT, PARAMS
from pipeline.stage import run_stage


def main() -> None:
    """Check, or say how to get back."""
    try:
        load_params()
    except ConfigError as error:
        if PARAMS.exists():  # else git takes a line of the old length, written within a clock tick, for unchanged
            PARAMS.touch()
        raise ConfigError(
            f"{error}. No output was touched; mend it, or go back: git checkout {PARAMS} && dvc repro"
        ) from None
    write_json(CHECK_REPORT, {PARAMS.name: "valid"})


if __name__ == "__main__":
    run_stage(main)
