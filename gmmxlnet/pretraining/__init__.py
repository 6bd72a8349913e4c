"""Pretraining an encoder from scratch on plain text, for whoever has a corpus and no Hub.

    prepare_corpus(["text/"], tokenizer, "data/corpus")      # corpus.py: token arrays, which is all that a GPU needs
    pretrain(Corpus.open("data/corpus"), PretrainingSettings(), "models/encoder")        # pretrain.py, settings.py

The folder it leaves is an XLNet for transformers, and a `base_model` for an experiment. No stage depends on this.
"""
