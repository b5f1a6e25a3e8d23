"""TFLiteConverter: one SavedModel in, one `.tflite` variant per recipe out.

component.py    what a pipeline author writes
executor.py     TFX artifacts in and out; the only module that sees both TFX and the engine
conversion.py   the engine's door: starts child processes, survives them, checks what they made
inspection.py   the rules a converted file must meet
failures.py     what went wrong with one recipe, in words, with advice
worker.py       the child's side: prepares once, then converts recipe by recipe   (imports TensorFlow)
quantize.py     one recipe's bytes from a prepared SavedModel                     (imports TensorFlow)
int4.py         int4 weights from a float32 file, through ai-edge-quantizer
label_names.py  class names from a schema or a vocabulary
front_end.py    loads a signature, freezes, cuts and re-signs it                  (imports TensorFlow)
trained_ranges.py  ranges that training left in a graph: finds, removes or extends them   (imports TensorFlow)
calibration.py  draws and checks the representative dataset                       (imports TensorFlow)
"""
