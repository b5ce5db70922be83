"""Run the networks outside PyTorch: export each component to a file, run the file, compare it with torch.

`python -m propainter.export --help` exports by hand; `runtime=onnxruntime` and others export what they need.
"""
