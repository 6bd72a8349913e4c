"""GMM-XLNet: XLNet with a gated mixture of memories that travels from segment to segment."""

__version__ = "0.1.0"
