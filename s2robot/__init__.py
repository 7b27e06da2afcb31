"""Frozen multi-scale (S²) vision encoders for robot-manipulation policies."""

__version__ = "0.1.0"
