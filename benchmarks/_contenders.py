"""All contenders by name, and which of them can be had here."""

import importlib.metadata

from _engines import DeepSparse, OnnxRuntime, OpenVino, OpenVinoBfloat16
from _peers import (
    LightGBM,
    Ours,
    OursOneThread,
    OursProba,
    Scipy,
    SklearnMLP,
    TorchBfloat16,
    TorchCSR,
    TorchDense,
)

OURS, ORT, DEEPSPARSE = "sparse-nn", "ONNX Runtime", "DeepSparse"
PROBA, ONE_THREAD = "sparse-nn predict_proba", "sparse-nn, 1 thread"
PEERS = {
    OURS: Ours,
    "torch f32": TorchDense,
    "torch bf16": TorchBfloat16,
    "torch CSR": TorchCSR,
    "scipy CSR": Scipy,
    ORT: OnnxRuntime,
    "OpenVINO f32": OpenVino,
    "OpenVINO bf16": OpenVinoBfloat16,
    DEEPSPARSE: DeepSparse,
    "sklearn MLP": SklearnMLP,
    "LightGBM (other work)": LightGBM,
    PROBA: OursProba,
    ONE_THREAD: OursOneThread,
}


def available(names, deepsparse):
    """Give versions of the peers that can be had, and why the others cannot."""
    versions, missing = {}, {}
    DeepSparse.python = deepsparse
    for name in names:
        try:
            if name == DEEPSPARSE:
                versions[name] = deepsparse_version()
                continue
            if name in (ORT, DEEPSPARSE) or "OpenVINO" in name:
                importlib.metadata.version("onnx")
            versions[name] = importlib.metadata.version(PEERS[name].package)
        except importlib.metadata.PackageNotFoundError as error:
            missing[name] = f"{error.name} is not installed"
        except (RuntimeError, OSError) as error:
            missing[name] = str(error)
    return versions, missing


def deepsparse_version():
    if DeepSparse.python is None:
        raise RuntimeError("no interpreter that has it is named (--deepsparse)")
    importlib.metadata.version("onnx")
    peer = DeepSparse(None, 1)
    try:
        return peer.ask(do="version")[0]["version"]
    finally:
        peer.close()
