"""What runs a model beside this project's artifacts: ONNX Runtime, OpenVINO, PyTorch."""
