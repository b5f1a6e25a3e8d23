"""The plugin's first consumer: a reference pipeline, its runners and its tasks. Not part of the wheel."""
