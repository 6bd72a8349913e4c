"""The model: configuration, encoder, memory, losses. Importing this package registers the Auto classes."""

from transformers import AutoConfig, AutoModelForQuestionAnswering

from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA
from gmmxlnet.models.memories.gated import MemoryState
from gmmxlnet.models.outputs import GMMXLNetOutput

AutoConfig.register(GMMXLNetConfig.model_type, GMMXLNetConfig, exist_ok=True)
AutoModelForQuestionAnswering.register(GMMXLNetConfig, GMMXLNetForQA, exist_ok=True)

__all__ = ["GMMXLNetConfig", "GMMXLNetForQA", "GMMXLNetOutput", "MemoryState"]
