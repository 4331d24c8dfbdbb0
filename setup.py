"""Package definition. Exact pins of a working environment are in requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

COMPILE = ["onnx", "onnxruntime"]
PRUNE = ["torch>=2.13", "safetensors", "onnxscript", "matplotlib", *COMPILE]
VIDEO = ["av>=17", "pillow>=10.1"]
CHARTS = ["matplotlib"]
# The package xgboost without what it brings for GPUs.
TUNE = ["xgboost-cpu", *COMPILE]
OPENCL = ["pyopencl"]
# The page of `rt3d report`.
REPORT = ["Jinja2", *COMPILE]
# Engines of `rt3d bench --onnx`; onnx2torch needs a torchvision that fits torch.
PEERS = ["openvino", "onnx2torch"]
# The programs of `rt3d bundle`, linked for other machines.
BUNDLE = ["ziglang"]

# Read, not imported: a build in an environment of its own has no path to the package.
about: dict[str, str] = {}
exec((Path(__file__).parent / "rt3d_tvm/package/version.py").read_text(encoding="utf-8"), about)

setup(
    name="rt3d-tvm",
    version=about["__version__"],
    description="Structured-sparse 3D CNNs from pruning to phone: RT3D on Apache TVM",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["rt3d_tvm*", "topi_sparse*", "schedules*"]),
    package_data={
        "rt3d_tvm": [
            *("py.typed", "compile/choices/shipped/*/*/*.jsonl", "bundle/c/*"),
            *("measure/schemas/*.json", "reporting/schemas/*.json", "reporting/templates/*"),
        ],
    },
    install_requires=[
        # Both exact: apache-tvm-ffi 0.1.15 crashes apache-tvm 0.27 in JSON serialisation.
        "apache-tvm==0.27.0.post1",
        "apache-tvm-ffi==0.1.14.post1",
        "numpy",
        "rich",
        # TVM's RPC tracker and its worker processes.
        "cloudpickle",
        "psutil",
        "tornado",
    ],
    extras_require={
        "compile": COMPILE,
        "prune": PRUNE,
        "video": VIDEO,
        "charts": CHARTS,
        "tune": TUNE,
        "opencl": OPENCL,
        "bundle": BUNDLE,
        "peers": PEERS,
        "report": REPORT,
        # What the commands of this package need: other engines to compare with are not among it.
        "all": [*COMPILE, *PRUNE, *VIDEO, *CHARTS, *TUNE, *OPENCL, *BUNDLE, *REPORT],
        "test": [
            *("pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "pre-commit"),
            *("jsonschema", "nbformat"),
            *(*PRUNE, *VIDEO, *CHARTS, *TUNE, *OPENCL, *BUNDLE, *REPORT),
        ],
    },
    entry_points={
        "console_scripts": ["rt3d = rt3d_tvm.cli:main"],
        # torch.compile(model, backend="rt3d")
        "torch_dynamo_backends": ["rt3d = rt3d_tvm.api.torch_backend:rt3d"],
    },
)
