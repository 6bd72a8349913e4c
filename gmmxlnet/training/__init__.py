"""Training: configuration, batches, and a Trainer for segmented documents."""

from gmmxlnet.training.config import (
    GMMTrainingConfig,
    TrainingConfig,
    gmm_balanced_config,
    gmm_large_config,
    gmm_small_config,
)
from gmmxlnet.training.trainer import GMMTrainer

__all__ = [
    "GMMTrainer",
    "GMMTrainingConfig",
    "TrainingConfig",
    "gmm_balanced_config",
    "gmm_large_config",
    "gmm_small_config",
]
