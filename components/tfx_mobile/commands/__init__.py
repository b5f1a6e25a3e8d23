"""Commands of `tfx-mobile`, one per module."""
