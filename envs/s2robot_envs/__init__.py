"""Simulated manipulation tasks as gymnasium environments."""
