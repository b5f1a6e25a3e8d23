"""Settings every test shares: quiet native code, one seed, no bytecode surprises."""

from __future__ import annotations

import os

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
