"""ONNX Runtime as the reference of what a graph computes."""

from __future__ import annotations

import onnx
import onnxruntime


def exact_session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the graph as it is written.

    Its optimiser would make 8-bit kernels of QDQ, which saturate on processors without VNNI: what
    is measured here is the file, not this machine.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
