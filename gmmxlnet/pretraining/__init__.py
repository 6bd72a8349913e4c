"""Pretraining an encoder from scratch on plain text, for use without the Hub.

    prepare_corpus(["text/"], tokenizer, "data/corpus")      # corpus.py: token arrays, the only input of training
    pretrain(Corpus.open("data/corpus"), PretrainingSettings(), "models/encoder")        # pretrain.py, settings.py

The output folder is an XLNet for transformers, and a `base_model` for an experiment. No pipeline stage depends on it.
"""
