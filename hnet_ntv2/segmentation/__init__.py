"""Chunks along a sequence."""
