"""Layers as the frameworks know them: arrays converted, gradients declared, no mathematics.

Each adapter is imported by its name, ``import ttcore.adapters.torch``, and needs its framework.
"""
