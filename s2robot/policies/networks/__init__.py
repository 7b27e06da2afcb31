"""Blocks that several policies share."""

from s2robot.policies.networks.basic import MLP, SinusoidalEmbedding
from s2robot.policies.networks.observation import ObservationNetwork
from s2robot.policies.networks.outputs import DeterministicChunk, MixtureChunk, make_output
from s2robot.policies.networks.unet import ConditionalUnet1D

__all__ = [
    "MLP",
    "ConditionalUnet1D",
    "DeterministicChunk",
    "MixtureChunk",
    "ObservationNetwork",
    "SinusoidalEmbedding",
    "make_output",
]
