"""TFLiteConverter: one model in, one `.tflite` variant per recipe out.

component.py           what a pipeline author writes
executor.py            TFX artifacts in and out; the only module that sees both TFX and the engine
label_names.py         class names from a schema or a vocabulary

The engine's door, in the parent, which never imports TensorFlow:

conversion.py          starts child processes, survives them, checks what they made
job.py                 what parent and child tell each other
inspection.py          the rules a converted file must meet
failures.py            what went wrong with one recipe, in words, with advice

The child:

worker.py              prepares once, then converts recipe by recipe
preparation.py         models that are ready for the converter, and the calibration sample
  front_end.py         loads a signature, freezes, cuts and re-signs it
    parsed_features.py what the signature parses, and where to cut it
    tables.py          vocabularies as hash tables that a `.tflite` has
    rewrites.py        ops that the quantizer gets wrong, made from others
    loops.py           shapes of recurrent layers
    state.py           variables that a signature assigns
    trained_ranges.py  ranges that training left in a graph: finds, removes or extends them
    graphs.py          surgery on graphs
  calibration.py       draws and checks the representative dataset
  calibration_report.py  where its inputs come from, and how it compares with the evaluation split
recipe_runner.py       decides for each recipe which way to go
  quantize.py          one recipe's bytes through TensorFlow's public converter
  shared_calibration.py  one calibration for all integer recipes
  int4.py              int4 weights from a float32 file, through ai-edge-quantizer
  repair.py            mixed_precision: measures layers left in float
    layer_search.py    which layers to try next; knows no TensorFlow
    float_layers.py    names of layers, and what lies between them
op_origins.py          the layers that ops come from
"""
