"""The `.tflite` file itself: reading it without running it, checking it, and running it.

A file passes three doors before anyone trusts it: its hash, a structural check in pure Python (`flatbuffer`), and one
run in a child process (`preflight`). Only then is it opened in-process (`runtime`). `metadata` writes what a file says
about itself, through `mediapipe_writer`, which runs under the interpreter of another environment. `peak_memory` and
`timing` measure files in child processes of their own, on `sample_inputs`.
"""
