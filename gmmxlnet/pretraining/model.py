"""`MaskedSpanXLNet`: our encoder with a tied language modeling head, and its conversion to transformers.

The objective is masked-span prediction instead of permutation language modeling: permutations need a query stream with
its own attention (Yang et al. 2019, section 2.3), which neither question answering nor our encoder has, at twice the
cost. The content stream that is kept is bidirectional, which predicting masked tokens from both sides trains (BERT:
Devlin et al. 2019, https://arxiv.org/abs/1810.04805), and whole spans suit span extraction better than single tokens
(SpanBERT: Joshi et al. 2020, https://arxiv.org/abs/1907.10529). The drawback is that `<mask>` occurs in pretraining
only.

Shapes: B windows, L tokens, N masked tokens of all windows, V words, d hidden size, H heads, h size of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel, XLNetConfig, XLNetLMHeadModel

from gmmxlnet.data.collator import IGNORED
from gmmxlnet.models.configuration import GMMXLNetConfig
from gmmxlnet.models.encoder import XLNetEncoder
from gmmxlnet.models.gmm_xlnet_qa import GMMXLNetForQA
from gmmxlnet.models.outputs import GMMXLNetOutput
from gmmxlnet.models.xlnet_weights import SHARED_KEYS, plain_encoder_tensors


class MaskedSpanXLNet(PreTrainedModel):
    """Predicts the tokens of masked spans.

    1. Encode the window with XLNet's bidirectional content stream: hidden states (B, L, d).
    2. Score the masked tokens: scores (N, V) are hidden · word embedding + a bias per word, in float32.
    3. Compute the loss, their mean cross-entropy, and their accuracy.
    """

    config_class = GMMXLNetConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False
    _init_weights = GMMXLNetForQA._init_weights  # the encoder is initialized in the same way
    is_custom_code = GMMXLNetForQA.is_custom_code

    def __init__(self, config: GMMXLNetConfig) -> None:
        super().__init__(config)
        self.encoder = XLNetEncoder(config)
        self.word_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, labels: Tensor
    ) -> GMMXLNetOutput:
        """Return the loss on a batch of `MaskedSpanCollator`, with the accuracy in `loss_parts`."""
        encoder, L = self.encoder, input_ids.shape[1]
        embedding_BLd = encoder.word_embedding(input_ids)
        hidden_BLd = encoder(embedding_BLd, attention_mask, token_type_ids, encoder.position_keys(L, L))
        chosen_BL = labels != IGNORED
        truth_N = labels[chosen_BL]
        scores_NV = F.linear(hidden_BLd[chosen_BL], encoder.word_embedding.weight).float() + self.word_bias.float()
        accuracy = (scores_NV.argmax(-1) == truth_N).float().mean()
        return GMMXLNetOutput(loss=F.cross_entropy(scores_NV, truth_N), loss_parts={"accuracy": accuracy.detach()})


@torch.no_grad()
def as_xlnet(model: MaskedSpanXLNet) -> XLNetLMHeadModel:
    """Convert to transformers' XLNet with a language modeling head, like XLNet's own checkpoints.

    The mask embedding, used only by the query stream, is initialized at random by transformers; set the seed first.
    """
    xlnet = XLNetLMHeadModel(XLNetConfig(**{name: getattr(model.config, name) for name in SHARED_KEYS}))
    state = plain_encoder_tensors(model.encoder, model.config) | {"lm_loss.bias": model.word_bias}
    own = dict(xlnet.named_parameters())
    for name, tensor in state.items():
        own[name].copy_(tensor)
    return xlnet.eval()
