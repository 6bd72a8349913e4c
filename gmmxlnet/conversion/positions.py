"""Relative positions for a student, fitted by regression to what its teacher's attention does with absolute ones.

Layer by layer: D_ij, the mean over texts of the teacher's unscaled scores between tokens i and j less the student's, is
approximated by a function of i - j and a constant for each query, which softmax does not see. The function is XLNet's
own, r_r_bias·W_r R(i - j), linear in the sinusoids R, so weighted least squares has a closed form. Half of the weight
follows the teacher's attention: the Kullback-Leibler divergence of two softmaxes is, to second order, half the variance
of the difference of their scores under the first. The other half is uniform, which constrains distances that get little
attention.

Beyond the distances that were fitted the function is arbitrary, and large: the student needs `clamp_len`.

Shapes: B texts, n tokens of a text, P = 2n - 1 distances, H heads, h size of a head, d hidden size.
"""

import torch
from torch import Tensor
from transformers import BertModel

from gmmxlnet.conversion.families import layers_of
from gmmxlnet.models.attention import relative_shift
from gmmxlnet.models.encoder import RelativeAttention, XLNetEncoder, sinusoids

RIDGE = 1e-4  # of the largest eigenvalue of the normal equations
UNIFORM = 0.5  # share of the weights that does not follow the teacher's attention


def hidden_states(
    encoder: XLNetEncoder, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor
) -> list[Tensor]:
    """(B, L, d) before each layer and after the last."""
    states: list[Tensor] = []

    def keep(_: int, hidden_BLd: Tensor) -> Tensor:
        states.append(hidden_BLd)
        return hidden_BLd

    L = input_ids.shape[1]
    keys = encoder.position_keys(L, L)
    last_BLd = encoder(encoder.word_embedding(input_ids), attention_mask, token_type_ids, keys, context=keep)
    return [*states, last_BLd]


@torch.no_grad()
def fit_positions(bert: BertModel, encoder: XLNetEncoder, teacher_ids_Bn: Tensor, *, text_type: int) -> list[float]:
    """Set every layer's `position` and `r_r_bias`; segments have to be zero. Returns the share of D explained, a layer.

    Args:
        teacher_ids_Bn: texts as the teacher reads them, `[CLS] text [SEP]`, of the longest length that is to be fitted.
        text_type: the teacher's token type for them.
    """
    n = teacher_ids_Bn.shape[1]
    types_Bn = torch.full_like(teacher_ids_Bn, text_type)
    taught = bert(teacher_ids_Bn, token_type_ids=types_Bn, output_hidden_states=True).hidden_states
    student_ids_Bn = teacher_ids_Bn.roll(-1, dims=1)  # `text <sep> <cls>`
    ones_Bn, zeros_Bn = torch.ones_like(student_ids_Bn), torch.zeros_like(student_ids_Bn)
    num_special = 2
    encoding_Pd = sinusoids(n - num_special, n - num_special, encoder.d_model, -1, teacher_ids_Bn.device).double()
    explained = []
    for i, (layer, (_, attention)) in enumerate(zip(encoder.layers, layers_of(bert), strict=True)):
        own_BLd = hidden_states(encoder, student_ids_Bn, zeros_Bn, ones_Bn)[i]
        taught_BLd = taught[i].roll(-1, dims=1)
        gap_Hnn, weight_Hnn, query_BLHh = _gap(attention, layer.attention, taught_BLd, own_BLd, n - num_special)
        coefficients_Hd, share = fit_distances(gap_Hnn.double(), weight_Hnn.double(), encoding_Pd)
        _install(layer.attention, coefficients_Hd, query_BLHh.flatten(0, 1).double())
        explained.append(share)
    return explained


def _gap(
    taught: dict[str, Tensor], own: RelativeAttention, taught_BLd: Tensor, own_BLd: Tensor, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over texts of the teacher's less the student's scores (H, n, n), the weights of the fit, the queries."""
    H, h = own.num_heads, own.head_dim
    gap = weight = own_BLd.new_zeros(H, n, n)
    queries = []
    for taught_Ld, own_Ld in zip(taught_BLd, own_BLd, strict=True):
        query, key = (
            torch.addmm(taught[f"{name}_bias"], taught_Ld, taught[name].T).unflatten(-1, (H, h)).transpose(0, 1)
            for name in ("query", "key")
        )
        taught_HLL = query @ key.transpose(1, 2)
        own_query, own_key, _ = own.qkv(own_Ld).unflatten(-1, (3, H, h)).unbind(1)
        own_HLL = (own_query + own.r_w_bias).transpose(0, 1) @ own_key.permute(1, 2, 0)
        probs_HLL = (taught_HLL * h**-0.5).softmax(-1)
        gap = gap + (taught_HLL - own_HLL)[:, :n, :n] / len(taught_BLd)
        weight = weight + probs_HLL[:, :n, :n] / len(taught_BLd)
        queries.append(own_query)
    weight = weight / weight.sum(-1, keepdim=True)
    return gap, (1 - UNIFORM) * weight + UNIFORM / n, torch.stack(queries)


def fit_distances(gap_Hnn: Tensor, weight_Hnn: Tensor, encoding_Pd: Tensor) -> tuple[Tensor, float]:
    """Weighted least squares of gap_ij = coefficients·encoding(i - j) + constant_i.

    Args:
        weight_Hnn: each row sums to 1. encoding_Pd: of the distances from n - 1 down to 1 - n.

    Returns: coefficients (H, d), and the weighted share of the variance within rows that they explain.
    """
    mean_Hn1 = (weight_Hnn * gap_Hnn).sum(-1, keepdim=True)
    centered_Hnn = gap_Hnn - mean_Hn1
    weight_HnP = _by_distance(weight_Hnn)
    row_mean_Hnd = weight_HnP @ encoding_Pd
    normal_Hdd = (encoding_Pd.T * weight_HnP.sum(1)[:, None]) @ encoding_Pd - row_mean_Hnd.transpose(
        1, 2
    ) @ row_mean_Hnd
    right_Hd = _by_distance(weight_Hnn * centered_Hnn).sum(1) @ encoding_Pd
    largest_H = torch.linalg.matrix_norm(normal_Hdd, ord=2)
    identity_dd = torch.eye(encoding_Pd.shape[1], dtype=encoding_Pd.dtype, device=encoding_Pd.device)
    coefficients_Hd = torch.linalg.solve(normal_Hdd + RIDGE * largest_H[:, None, None] * identity_dd, right_Hd)
    quadratic_H = torch.einsum("hd,hde,he->h", coefficients_Hd, normal_Hdd, coefficients_Hd)
    explained = (2 * (coefficients_Hd * right_Hd).sum() - quadratic_H.sum()).item()
    total = (weight_Hnn * centered_Hnn.square()).sum().item()
    return coefficients_Hd, explained / total if total > 0 else 1.0


def _by_distance(values_Hnn: Tensor) -> Tensor:
    """(H, n, P): each row's values at their distances, from n - 1 down to 1 - n; zero elsewhere."""
    H, n, _ = values_Hnn.shape
    spread_HnP = values_Hnn.new_zeros(H, n, 2 * n - 1)
    relative_shift(spread_HnP, n).copy_(values_Hnn)
    return spread_HnP


def _install(attention: RelativeAttention, coefficients_Hd: Tensor, query_THh: Tensor) -> None:
    """Set W_r and r_r so that (q + r_r)·W_r R is about coefficients·R for every query q.

    W_r is the outer product of a direction u and the coefficients, u being the one along which queries vary least: what
    depends on them is smallest then. r_r compensates their mean.
    """
    mean_Hh = query_THh.mean(0)
    deviation_HTh = (query_THh - mean_Hh).transpose(0, 1)
    direction_Hh = torch.linalg.eigh(deviation_HTh.transpose(1, 2) @ deviation_HTh).eigenvectors[..., 0]
    peak_H1 = direction_Hh.abs().argmax(-1, keepdim=True)
    direction_Hh = direction_Hh * direction_Hh.gather(1, peak_H1).sign()
    size_H1 = coefficients_Hd.norm(dim=-1, keepdim=True).clamp(min=1e-6).sqrt()
    weight_Hhd = direction_Hh[..., None] * (coefficients_Hd / size_H1)[:, None]
    attention.position.weight.copy_(weight_Hhd.flatten(0, 1))
    along_mean_H1 = (mean_Hh * direction_Hh).sum(-1, keepdim=True)
    attention.r_r_bias.copy_(direction_Hh * (size_H1 - along_mean_H1))
