"""A small pretrained XLNet from a BERT: weights by algebra, positions by regression, minutes of distillation.

    from gmmxlnet.conversion.convert import convert
    from gmmxlnet.conversion.settings import ConversionSettings

    report = convert("sentence-transformers/all-MiniLM-L6-v2", "models/minilm-xlnet", ["text/"], ConversionSettings())

families.py reads and checks the BERT (the teacher); algebra.py copies its weights into an XLNet (the student);
positions.py fits the relative positions; windows.py and distillation.py train the student; report.py evaluates every
step. See docs/conversion.md for the method.
"""
