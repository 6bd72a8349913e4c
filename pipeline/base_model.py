"""Where the base model of an adapter's checkpoint is, for those that load the checkpoint."""

import os

from gmmxlnet.models.adapter_settings import BASE_VARIABLE
from pipeline.params import Params
from pipeline.places import find_local


def point_to_base(params: Params) -> None:
    """Tell whoever loads a checkpoint with an adapter, here or in a fresh process, where the main repository's base is.

    The checkpoint names the base as `params.yaml` does, so that its bytes do not depend on where it was trained.
    """
    found = find_local(params.active.base_model)
    if params.adapter != "none" and found != params.active.base_model:
        os.environ.setdefault(BASE_VARIABLE, found)
