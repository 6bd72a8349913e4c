"""Stage `push`: share the model on the Hub when `hub_model_id` names a repository; else only say that it was not.

Reads models/gmm and its reports (which hold only after `verify` and `evaluate` went well); leaves reports/push.json.
"""

from gmmxlnet.messages import say
from gmmxlnet.utils.files import write_json
from pipeline.params import load_params
from pipeline.places import PUSH_REPORT
from pipeline.stage import run_stage


def main() -> None:
    """Push or say why not."""
    params = load_params()
    if params.hub_model_id is None:
        write_json(PUSH_REPORT, {"pushed": False, "reason": "hub_model_id is null in params.yaml"})
        say("push: hub_model_id is null in params.yaml, so nothing was pushed")
        return
    from pipeline.upload import upload  # imports torch, which takes seconds to write the line above

    upload(params)


if __name__ == "__main__":
    run_stage(main)
