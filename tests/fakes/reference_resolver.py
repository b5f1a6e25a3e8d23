"""Stands in for `tfx_mobile.tflite.preflight` in a child process: runs a file with TFLite's reference kernels."""


def load_and_run(request, emit):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=request["path"], num_threads=1, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    interpreter.invoke()
    emit({"error": None})
