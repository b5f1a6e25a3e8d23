"""Every error this package raises on purpose.

    TFXMobileError
    ├── RecipeError                   a recipe or calibration that makes no sense (also a ValueError)
    ├── ConversionError               no usable variant came out
    │   ├── SignatureError            the model's signature cannot become a .tflite's inputs and outputs
    │   ├── UnsupportedOpsError       ops that TensorFlow Lite has no builtin kernel for
    │   ├── CalibrationError          calibration data is missing, too small or damaged
    │   ├── MetadataError             the TFLite metadata that was asked for cannot be written
    │   └── ConverterCrashedError     the converter process died or ran out of time
    ├── EvaluationError               the evaluation cannot be carried out as configured
    │   └── EvalConfigError           the EvalConfig or another parameter makes no sense (also a ValueError)
    ├── BeamWorkerError               remote Beam workers could not be given this package (also a ValueError)
    ├── ModelFileError                a .tflite that is corrupt, altered or cannot be loaded
    ├── SecretParameterError          a parameter holds what looks like a secret (also a ValueError)
    ├── TraceError                    where a file came from cannot be found out
    └── PushError                     publishing failed
        ├── NotBlessedError           the blessing does not name the bytes at hand
        ├── ModelTooLargeError        the file exceeds what the destination takes
        ├── ConflictError             the destination holds something else under an immutable name
        ├── ReleaseRefusedError       these bytes were rolled back on this channel
        ├── SupersededError           a newer run's release is on this channel already, and that was to be an error
        ├── RolloutRefusedError       Remote Config holds something there that is not ours to change
        ├── NoSuchReleaseError        no release, or more than one, is what was asked for
        ├── UntrustedReleaseError     what was read is not signed by a trusted key
        ├── SigningError              the release cannot be signed
        ├── ModelRefusedError         the destination's service does not accept the file
        ├── ShutDownError             the destination's service no longer exists
        └── DestinationUnavailableError   the destination cannot be reached or written
            └── NothingPublishedError     it can be reached, and nothing was published there yet

A failed quality gate is not in this tree: it is a recorded verdict. Messages say what failed, the value, the valid
choices, and what to do next.
"""

from __future__ import annotations


class TFXMobileError(Exception):
    """Root of all errors raised by tfx-mobile."""


class RecipeError(TFXMobileError, ValueError):
    """A recipe or calibration specification is invalid; raised while the pipeline is being defined."""


class ConversionError(TFXMobileError):
    """The model could not be converted."""


class SignatureError(ConversionError):
    """The chosen signature does not exist or cannot be turned into tensor inputs and outputs."""


class UnsupportedOpsError(ConversionError):
    """The graph holds ops without a builtin TensorFlow Lite kernel."""


class CalibrationError(ConversionError):
    """The representative dataset is missing, empty, misshapen or not finite."""


class MetadataError(ConversionError):
    """MediaPipe's metadata writers are missing, fail, or would damage the file."""


class ConverterCrashedError(ConversionError):
    """The converter process was killed by a signal or exceeded its deadline."""


class EvaluationError(TFXMobileError):
    """The evaluation cannot be carried out as configured."""


class EvalConfigError(EvaluationError, ValueError):
    """The EvalConfig or a parameter of the evaluation is invalid; raised while the pipeline is defined if possible."""


class BeamWorkerError(TFXMobileError, ValueError):
    """Beam arguments for remote workers cannot be made of what was given or is installed."""


class ModelFileError(TFXMobileError):
    """A `.tflite` file is corrupt, was altered, or cannot be loaded by the interpreter."""


class SecretParameterError(TFXMobileError, ValueError):
    """A parameter holds what looks like a secret; its value is never repeated in a message."""


class TraceError(TFXMobileError):
    """What was asked about cannot be read, or ML Metadata cannot be."""


class PushError(TFXMobileError):
    """Publishing failed."""


class NotBlessedError(PushError):
    """The blessing is missing, names other bytes than those to be pushed, or says no where that shall be an error."""


class ModelTooLargeError(PushError):
    """The model file exceeds the destination's size limit."""


class ConflictError(PushError):
    """An immutable object exists with other content, or a compare-and-swap was lost too often."""


class ReleaseRefusedError(PushError):
    """The bytes were rolled back on this channel and not unpinned since."""


class SupersededError(PushError):
    """A newer run's release is on the channel already, and the author asked for an error then."""


class RolloutRefusedError(PushError):
    """The rollout's parameter or condition in Remote Config is not ours to change, or the service does not take it."""


class NoSuchReleaseError(PushError):
    """No release of the channel, or more than one, is what was asked for."""


class UntrustedReleaseError(PushError):
    """A channel statement or manifest is not signed by a trusted key, or was altered."""


class SigningError(PushError):
    """There is no key to sign with, or it cannot be used."""


class ModelRefusedError(PushError):
    """The destination's service does not accept the model file."""


class ShutDownError(PushError):
    """The destination's service was shut down by who ran it."""


class DestinationUnavailableError(PushError):
    """The destination cannot be reached or written."""


class NothingPublishedError(DestinationUnavailableError):
    """Nothing was published under that model name and channel yet."""
