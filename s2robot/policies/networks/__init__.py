"""Blocks that several policies share."""

from s2robot.policies.networks.basic import MLP, SinusoidalEmbedding
from s2robot.policies.networks.denoising_transformer import (
    DenoisingTransformer,
    DenoisingTransformerSettings,
    make_denoising_transformer,
)
from s2robot.policies.networks.diffusion import Diffusion, DiffusionSettings
from s2robot.policies.networks.observation import ObservationNetwork
from s2robot.policies.networks.outputs import DeterministicChunk, HeadSettings, MixtureChunk, make_output
from s2robot.policies.networks.sequences import block_causal_mask, chunks_from_every_step
from s2robot.policies.networks.unet import ConditionalUnet1D, UNetSettings, make_unet

__all__ = [
    "MLP",
    "ConditionalUnet1D",
    "DenoisingTransformer",
    "DenoisingTransformerSettings",
    "DeterministicChunk",
    "Diffusion",
    "DiffusionSettings",
    "HeadSettings",
    "MixtureChunk",
    "ObservationNetwork",
    "SinusoidalEmbedding",
    "UNetSettings",
    "block_causal_mask",
    "chunks_from_every_step",
    "make_denoising_transformer",
    "make_output",
    "make_unet",
]
