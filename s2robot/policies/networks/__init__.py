"""Blocks that several policies share."""

from s2robot.policies.networks.basic import MLP, SinusoidalEmbedding
from s2robot.policies.networks.denoising_transformer import DenoisingTransformer, make_denoising_transformer
from s2robot.policies.networks.diffusion import Diffusion
from s2robot.policies.networks.observation import ObservationNetwork
from s2robot.policies.networks.outputs import DeterministicChunk, MixtureChunk, make_output
from s2robot.policies.networks.sequences import block_causal_mask, chunks_from_every_step
from s2robot.policies.networks.unet import ConditionalUnet1D, make_unet

__all__ = [
    "MLP",
    "ConditionalUnet1D",
    "DenoisingTransformer",
    "DeterministicChunk",
    "Diffusion",
    "MixtureChunk",
    "ObservationNetwork",
    "SinusoidalEmbedding",
    "block_causal_mask",
    "chunks_from_every_step",
    "make_denoising_transformer",
    "make_output",
    "make_unet",
]
