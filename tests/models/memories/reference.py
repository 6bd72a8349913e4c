"""`gmm` in plain NumPy, one document and one expert at a time, from the formulas of docs/memory.md.

It shares no code with the model: tokens are laid out from lists, attention is a double loop, and the loss is a sum over
words. Shapes: L tokens of a segment, m slots, d hidden size, k experts, V words.
"""

import math
from dataclasses import dataclass

import numpy as np

erf = np.vectorize(math.erf)


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@dataclass
class Step:
    """What the model computes for one segment of one document."""

    logits_L2: np.ndarray
    write_probs_k: np.ndarray
    experts_kmd: np.ndarray
    read_md: np.ndarray
    asked_Md: np.ndarray


class Reference:
    """The model with these weights (a state dict of float64 arrays) and this configuration."""

    def __init__(self, config, weights):
        self.config, self.weights = config, weights
        self.m, self.k = config.memory_slots, config.num_memory_experts
        self.num_words = config.vocab_size - 2 * self.m

    def linear(self, name, x):
        bias = self.weights.get(f"{name}.bias", 0.0)
        return x @ self.weights[f"{name}.weight"].T + bias

    def norm(self, name, x_Ld):
        centered = x_Ld - x_Ld.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + self.config.layer_norm_eps)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def layout(self, context, question):
        """A segment's ids and types: context, write tokens, <sep>, read tokens, question, <sep>, <cls>."""
        reads = [self.num_words + j for j in range(self.m)]
        writes = [self.num_words + self.m + j for j in range(self.m)]
        sep, cls = self.config.sep_token_id, 3
        ids = [*context, *writes, sep, *reads, *question, sep, cls]
        types = [0] * (len(context) + self.m + 1) + [1] * (self.m + len(question) + 1) + [2]
        write_at = len(context)
        return ids, types, write_at, write_at + self.m + 1

    def attention(self, layer, hidden_Ld, types):
        """(q + w)·k + (q + r)·position + (q + s)·segment for each pair of tokens, over the root of the head's size."""
        prefix, weights = f"encoder.layers.{layer}.attention", self.weights
        d, H = self.config.d_model, self.config.n_head
        h, L = d // H, len(types)
        query_LHh, key_LHh, value_LHh = (
            (hidden_Ld @ weights[f"{prefix}.qkv.weight"][i * d : (i + 1) * d].T).reshape(L, H, h) for i in range(3)
        )
        frequency = 10000.0 ** (-np.arange(0, d, 2) / d)
        mixed_LHh = np.zeros((L, H, h))
        for i in range(L):
            for head in range(H):
                q, scores = query_LHh[i, head], []
                for j in range(L):
                    angle = (i - j) * frequency
                    encoding = np.concatenate([np.sin(angle), np.cos(angle)])
                    position = self.linear(f"{prefix}.position", encoding).reshape(H, h)[head]
                    segment = weights[f"{prefix}.segment_embedding"][int(types[i] != types[j]), head]
                    score = (q + weights[f"{prefix}.r_w_bias"][head]) @ key_LHh[j, head]
                    score += (q + weights[f"{prefix}.r_r_bias"][head]) @ position
                    score += (q + weights[f"{prefix}.r_s_bias"][head]) @ segment
                    scores.append(score / math.sqrt(h))
                mixed_LHh[i, head] = softmax(np.array(scores)) @ value_LHh[:, head]
        return self.linear(f"{prefix}.output", mixed_LHh.reshape(L, d))

    def encode(self, embedding_Ld, types):
        hidden_Ld = embedding_Ld
        for layer in range(self.config.n_layer):
            prefix = f"encoder.layers.{layer}"
            hidden_Ld = self.norm(f"{prefix}.attention_norm", hidden_Ld + self.attention(layer, hidden_Ld, types))
            inner = self.linear(f"{prefix}.inner", hidden_Ld)
            inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
            hidden_Ld = self.norm(f"{prefix}.feed_forward_norm", hidden_Ld + self.linear(f"{prefix}.outer", inner))
        return hidden_Ld

    def route(self, router, states_md, kept_k):
        """softmax(W · pool(states) / T) among the experts that the document keeps."""
        if self.config.pooling_method == "attention":
            scores_m = states_md @ self.weights[f"{router}.pooling.query.weight"][0]
            pooled = softmax(scores_m) @ states_md
        else:
            pooled = states_md.mean(0) if self.config.pooling_method == "mean" else states_md.max(0)
        logits_k = self.linear(f"{router}.W_gate", pooled) / self.config.routing_temperature
        if self.config.router == "uniform":
            logits_k = np.zeros(self.k)
        probs_k = np.zeros(self.k)
        probs_k[kept_k] = softmax(logits_k[kept_k])
        if self.config.routing_top_k is not None:
            probs_k[np.argsort(probs_k)[: self.k - self.config.routing_top_k]] = 0
        return probs_k / probs_k.sum()

    def injected(self, read_md):
        """P·R, each slot scaled to the length of a word embedding."""
        projected_md = self.linear("memory_reader.projection", read_md)
        lengths = np.sqrt((projected_md**2).sum(-1, keepdims=True))
        return projected_md / lengths * self.weights["memory_reader.norm"]

    def slots(self, experts, read_md):
        """What the losses ask: what is read, or with a lookup all slots of all experts."""
        return np.concatenate(experts) if self.config.memory_lookup else read_md

    def found(self, word, slots_Md):
        """What a word finds among slots: P · Σ w v, with the empty slot's score as the last of the softmax."""
        vectors_Md, norm = self.injected(slots_Md), self.weights["memory_reader.norm"]
        embedding_d = self.weights["encoder.word_embedding.weight"][word]
        scores = [self.config.memory_word_sharpness / norm[0] ** 2 * (v @ embedding_d) for v in vectors_Md]
        weight_M = softmax(np.array([*scores, self.weights["memory_lookup.empty_score"][0]]))[:-1]
        return self.linear("memory_lookup.projection", weight_M @ vectors_Md)

    def read_document(self, windows, question, kept_k):
        """The steps of one document; `windows` are the ids of each segment's context."""
        experts = [self.weights[f"expert_mixture.expert_{j}"] for j in range(self.k)]
        read_md = sum(experts) / self.k
        steps = []
        for s, context in enumerate(windows):
            ids, types, write_at, read_at = self.layout(context, question)
            embedding_Ld = self.weights["encoder.word_embedding.weight"][ids].copy()
            if self.config.memory_lookup:
                readable = [expert for expert, kept in zip(experts, kept_k, strict=True) if kept or s == 0]
                for i, word in enumerate(ids):
                    if word < self.num_words:
                        embedding_Ld[i] += self.found(word, np.concatenate(readable))
            embedding_Ld[read_at : read_at + self.m] = self.injected(read_md)
            hidden_Ld = self.encode(embedding_Ld, types)
            write_md = hidden_Ld[write_at : write_at + self.m]
            write_probs_k = self.route("routing_network", write_md, kept_k)
            updated = []
            for j, expert_md in enumerate(experts):
                both = np.concatenate([expert_md, write_md], -1)
                gate = sigmoid(self.linear(f"expert_updater.gate_networks.{j}", both))
                candidate = np.tanh(self.linear(f"expert_updater.update_networks.{j}", both))
                step = write_probs_k[j] * gate
                updated.append((1 - step) * expert_md + step * candidate)
            experts, read_probs_k = updated, write_probs_k
            if self.config.routing_mode == "read-based":
                read_states_md = hidden_Ld[read_at : read_at + self.m]
                read_probs_k = self.route("memory_reader.read_gating_network", read_states_md, kept_k)
            read_md = sum(p * expert for p, expert in zip(read_probs_k, experts, strict=True))
            asked_Md = self.slots(experts, read_md)
            steps.append(Step(self.linear("qa_head", hidden_Ld), write_probs_k, np.stack(experts), read_md, asked_Md))
        return steps

    def span_loss(self, documents, steps, labels):
        """Of start and end: -log P(label) among context and <cls>, by segment or by document."""
        losses = []
        for boundary in (0, 1):
            for windows, read, label in zip(documents, steps, labels, strict=True):
                segments = []
                for s, (context, step) in enumerate(zip(windows, read, strict=True)):
                    places = [*range(len(context)), len(step.logits_L2) - 1]
                    here = label is not None and label[0] == s
                    chosen = label[1 + boundary] if here else places[-1]
                    scores = np.exp(step.logits_L2[places, boundary])
                    segments.append((scores.sum(), scores[places.index(chosen)], here))
                if self.config.span_loss == "segment":
                    losses += [-math.log(gold / total) for total, gold, _ in segments]
                else:
                    right = [gold for _, gold, here in segments if here or label is None]
                    losses.append(-math.log(sum(right) / sum(total for total, _, _ in segments)))
        return sum(losses) / len(losses)

    def load_balance(self, steps):
        """k · Σ f_j P_j over the documents of each step, weighted by their number."""
        total = count = 0.0
        for s in range(max(map(len, steps))):
            probs_nk = np.stack([read[s].write_probs_k for read in steps if len(read) > s])
            share_k = np.bincount(probs_nk.argmax(1), minlength=self.k) / len(probs_nk)
            total += len(probs_nk) * self.k * (share_k * probs_nk.mean(0)).sum()
            count += len(probs_nk)
        return total / count

    @staticmethod
    def entropy(steps):
        """Mean of -Σ p log p over all segments of all documents."""
        entropies = [-sum(p * math.log(p) for p in step.write_probs_k if p > 0) for read in steps for step in read]
        return sum(entropies) / len(entropies)

    @staticmethod
    def rarity(fresh):
        """{word: log(segments / segments with the word)}; `fresh`: words no earlier window showed."""
        everything = [set(said) for windows in fresh for said in windows]
        words = set().union(*everything)
        return {word: math.log(len(everything) / sum(word in said for said in everything)) for word in words}

    def targets(self, documents, fresh):
        """{word: weight} after each segment of each document."""
        if self.config.memory_reconstruction_target == "segment":
            return [[{w: context.count(w) for w in context} for context in windows] for windows in documents]
        return self.recurring(fresh)

    def recurring(self, fresh):
        """{word: rarity} after each segment of each document, of words so far that will be said again."""
        rarity, found = self.rarity(fresh), []
        for windows in fresh:
            found.append([])
            for s in range(len(windows)):
                before, after = set().union(*windows[: s + 1]), set().union(*windows[s + 1 :])
                found[-1].append({word: rarity[word] for word in before & after})
        return found

    def reconstruction(self, steps, targets):
        """Cross-entropy of the targets against the mean of the slots' distributions, over all segments alike."""
        embedding_Vd = self.weights["encoder.word_embedding.weight"][: self.num_words]
        scale = self.config.memory_word_sharpness / self.weights["memory_reader.norm"] ** 2
        losses = []
        for read, asked in zip(steps, targets, strict=True):
            for step, weight_of in zip(read, asked, strict=True):
                probs_V = np.mean([softmax(scale * embedding_Vd @ v) for v in self.injected(step.asked_Md)], axis=0)
                total = sum(weight_of.values())
                losses.append(-sum(w * math.log(probs_V[word]) for word, w in weight_of.items()) / (total or 1))
        return sum(losses) / len(losses)

    def association(self, documents, fresh, steps):
        """Cross-entropy of recurring words that are asked for by the words at most three tokens away from them."""
        embedding_Vd = self.weights["encoder.word_embedding.weight"][: self.num_words]
        norm, rarity, losses = self.weights["memory_reader.norm"], self.rarity(fresh), []
        scale = self.config.memory_word_sharpness / norm**2
        for windows, said, read, asked in zip(documents, fresh, steps, self.recurring(fresh), strict=True):
            for s, step in enumerate(read):
                slots_md = self.injected(step.asked_Md)
                probs_mV = np.stack([softmax(scale * embedding_Vd @ slot) for slot in slots_md])
                loss = total = 0.0
                for context, new in zip(windows[: s + 1], said[: s + 1], strict=True):
                    for i in range(len(context) - len(new), len(context)):  # what is new stands at the window's end
                        word, weight = context[i], asked[s].get(context[i], 0.0)
                        around = {w for w in context[max(0, i - 3) : i + 4] if w != word and rarity[w] > 0}
                        cue_d = sum((rarity[w] * embedding_Vd[w] for w in around), np.zeros(embedding_Vd.shape[1]))
                        length = math.sqrt(cue_d @ cue_d)
                        cue_d = cue_d * norm / (length or 1)
                        address_m = softmax(scale * slots_md @ cue_d)
                        others_m = 1 - probs_mV[:, sorted(around)].sum(1)
                        loss -= weight * math.log((address_m * probs_mV[:, word] / others_m).sum())
                        total += weight
                losses.append(loss / (total or 1))
        return sum(losses) / len(losses)
