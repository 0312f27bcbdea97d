"""Exports of a run for other libraries: weights, boards with labels, an ONNX model."""
