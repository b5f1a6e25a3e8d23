"""The reference task: 8x8 grey images of real handwritten digits, ten classes."""
