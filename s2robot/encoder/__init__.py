"""The frozen S² encoder, what runs it, what it costs and how fast it is here."""

from s2robot.encoder.encoder import S2Encoder

__all__ = ["S2Encoder"]
