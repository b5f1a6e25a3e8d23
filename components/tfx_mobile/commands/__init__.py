"""The commands of `tfx-mobile`, one module each."""
