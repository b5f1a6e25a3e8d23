"""Commands of `tfx-mobile`, one module each."""
