"""Compare a student with its teacher on held-out text, for `conversion.json`.

Shapes: B windows, L tokens, d hidden size, N layers, M masked tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gmmxlnet.conversion.families import Teacher
from gmmxlnet.conversion.positions import hidden_states
from gmmxlnet.conversion.windows import Batch, Windows
from gmmxlnet.data.collator import CLS_TYPE, QUESTION_TYPE
from gmmxlnet.models.encoder import XLNetEncoder

BUCKET = 64  # tokens of distance between a token of the text and the question
MASK_SHARE = 0.15
NUM_WINDOWS = 24


def heldout_batches(windows: Windows, longest: int) -> list[Batch]:
    """The windows that are measured on, the same ones every time: of the longest length, half and a quarter of it."""
    rng = np.random.default_rng([windows.seed, 2**31])
    lengths = sorted({max(8, longest // part) for part in (4, 2, 1)})
    return [windows.batch(rng, num_windows=NUM_WINDOWS // len(lengths), length=length) for length in lengths]


@torch.inference_mode()
def measure(teacher: Teacher, encoder: XLNetEncoder, shift_Nd: Tensor, batches: Sequence[Batch]) -> dict[str, Any]:
    """Cosines of hidden states, by layer and by distance, and whether both read the same word under a mask.

    `cosine_by_layer` begins with the input of the first layer, which is compared too; `cosine_by_distance` is the last
    layer's, of text tokens by how many tokens before the question they stand, of the question's and of `<cls>`.
    """
    was_training = encoder.training
    encoder.eval()
    layers, by_distance = [], []
    for batch in batches:
        cosine_NBL = _cosines(teacher, encoder, shift_Nd, batch)
        layers.append(cosine_NBL[:, batch.attention_mask.bool()])
        by_distance.append((cosine_NBL[-1], _groups(batch)))
    names = sorted({name for _, groups in by_distance for name in groups}, key=_order)
    found = {
        name: torch.cat([cosine_BL[groups[name]] for cosine_BL, groups in by_distance if name in groups])
        for name in names
    }
    result = {
        "cosine_by_layer": [_rounded(values.mean()) for values in torch.cat(layers, dim=1)],
        "cosine_by_distance": {name: _rounded(values.mean()) for name, values in found.items() if len(values)},
        "masked_words": masked_agreement(teacher, encoder, shift_Nd, batches),
    }
    encoder.train(was_training)
    return result


def masked_agreement(
    teacher: Teacher, encoder: XLNetEncoder, shift_Nd: Tensor, batches: Sequence[Batch]
) -> dict[str, Any]:
    """With 15% of the text masked for both: how often they read the same word there, and the right one.

    A word is read from the last hidden state by the head of the teacher's masked language model; where it has none,
    it is the word whose normalized input embedding has the largest cosine with that state, the same table for both.
    """
    read, by = _reader(teacher)
    counts = {"same_word": 0, "teacher_right": 0, "student_right": 0}
    total = 0
    for i, batch in enumerate(batches):
        hidden, chosen_BL = batch.masked(teacher.tokenizer.mask_token_id, MASK_SHARE, seed=i)
        if not bool(chosen_BL.any()):
            continue
        truth_M = batch.input_ids[chosen_BL]
        taught = teacher_states(teacher, hidden)[-1][chosen_BL]
        own = student_states(encoder, hidden)[-1][chosen_BL] - shift_Nd[-1]
        taught_M, own_M = read(taught), read(own)
        for name, hits_M in (
            ("same_word", taught_M == own_M),
            ("teacher_right", taught_M == truth_M),
            ("student_right", own_M == truth_M),
        ):
            counts[name] += int(hits_M.sum())
        total += len(truth_M)
    if teacher.head is None:  # the nearest embedding is not a prediction
        counts = {"same_word": counts["same_word"]}
    return {"read_by": by, "tokens": total, **{name: round(n / max(total, 1), 4) for name, n in counts.items()}}


def teacher_states(teacher: Teacher, batch: Batch) -> list[Tensor]:
    """(B, L, d) before each layer and after the last, in the places of the student's tokens."""
    states = teacher.model(
        batch.teacher_ids,
        attention_mask=batch.teacher_mask,
        token_type_ids=batch.teacher_types,
        output_hidden_states=True,
    ).hidden_states
    place_BLd = batch.place[..., None].expand(-1, -1, states[0].shape[-1])
    return [state.gather(1, place_BLd) for state in states]


def student_states(encoder: XLNetEncoder, batch: Batch) -> list[Tensor]:
    """(B, L, d) before each layer and after the last."""
    return hidden_states(encoder, batch.input_ids, batch.token_type_ids, batch.attention_mask)


def _cosines(teacher: Teacher, encoder: XLNetEncoder, shift_Nd: Tensor, batch: Batch) -> Tensor:
    """(N+1, B, L)"""
    pairs = zip(teacher_states(teacher, batch), student_states(encoder, batch), shift_Nd, strict=True)
    return torch.stack([F.cosine_similarity(taught, own - shift_d, dim=-1) for taught, own, shift_d in pairs])


def _groups(batch: Batch) -> dict[str, Tensor]:
    """Which tokens (B, L) bool belong to each group, the text's by their distance to the question."""
    question_BL = batch.token_type_ids == QUESTION_TYPE
    first_question_B1 = question_BL.int().argmax(1, keepdim=True)
    distance_BL = first_question_B1 - torch.arange(question_BL.shape[1], device=question_BL.device)
    groups = {"question": question_BL, "<cls>": batch.token_type_ids == CLS_TYPE}
    for start in range(0, question_BL.shape[1], BUCKET):
        inside_BL = batch.is_text & (distance_BL >= start) & (distance_BL < start + BUCKET)
        if bool(inside_BL.any()):
            groups[f"text {start}-{start + BUCKET - 1}"] = inside_BL
    return groups


def _order(name: str) -> tuple[int, int]:
    return (1, int(name.split()[1].split("-")[0])) if name.startswith("text") else (0, 0 if name == "<cls>" else 1)


def _reader(teacher: Teacher) -> tuple[Callable[[Tensor], Tensor], str]:
    """From states (M, d) to words (M,), and how that is done."""
    if teacher.head is not None:
        head = teacher.head
        return lambda states_Md: head(states_Md).argmax(-1), "the teacher's masked language model's head"
    embeddings = teacher.model.embeddings
    table_Vd = F.normalize(embeddings.LayerNorm(embeddings.word_embeddings.weight), dim=-1)
    return lambda states_Md: (states_Md @ table_Vd.T).argmax(-1), "the nearest word embedding; the teacher has no head"


def _rounded(value: Tensor) -> float:
    return round(value.item(), 5)
