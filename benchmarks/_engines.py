"""Peers that read ONNX: ONNX Runtime, OpenVINO and DeepSparse."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
from _nets import onnx_bytes
from _peers import Peer, TorchBfloat16


class OnnxRuntime(Peer):
    """session.run, all graph optimisations."""

    package = "onnxruntime"

    def __init__(self, net, threads):
        import onnxruntime

        super().__init__(net, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            onnx_bytes(net), options, providers=["CPUExecutionProvider"]
        )

    def call(self):
        return self.session.run(None, {"X": self.X})[0]


class OpenVino(Peer):
    """A request compiled for the batch size, inputs and outputs not copied."""

    package = "openvino"
    precision = "f32"

    def __init__(self, net, threads):
        import openvino

        super().__init__(net, threads)
        self.core = openvino.Core()
        self.onnx = onnx_bytes(net)

    def bind(self, X):
        super().bind(X)
        model = self.core.read_model(self.onnx, b"")
        model.reshape(X.shape)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self.threads,
        }
        compiled = self.core.compile_model(model, "CPU", options)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != self.precision:
            raise NotImplementedError(f"this CPU computes {used}, not {self.precision}")
        self.request = compiled.create_infer_request()

    def call(self):
        out = self.request.infer({0: self.X}, share_inputs=True, share_outputs=True)
        return out[0]


class OpenVinoBfloat16(OpenVino):
    """The same with bfloat16 as the precision to compute in."""

    precision = "bf16"
    tolerance = TorchBfloat16.tolerance


class DeepSparse(Peer):
    """DeepSparse in a process of its own; `python` is set where one is named."""

    package = None
    python = None

    def __init__(self, net, threads):
        super().__init__(net, threads)
        env = {**os.environ, "NM_DISABLE_ANALYTICS": "1"}
        self.process = subprocess.Popen(
            [self.python, Path(__file__).with_name("_deepsparse_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )

    def ask(self, payload=b"", **order):
        """Send an order and wait for the answer and the bytes that go with it."""
        pipe = self.process.stdin
        pipe.write(json.dumps({**order, "bytes": len(payload)}).encode() + b"\n")
        pipe.write(payload)
        pipe.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("its worker ended")
        answer = json.loads(line)
        body = self.process.stdout.read(answer["bytes"])
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer, body

    def bind(self, X):
        super().bind(X)
        onnx = onnx_bytes(self.net)
        order = {"onnx": len(onnx), "shape": X.shape, "threads": self.threads}
        self.ask(onnx + X.tobytes(), do="load", **order)

    def output(self):
        answer, body = self.ask(do="output")
        return np.frombuffer(body, dtype=np.float32).reshape(answer["shape"])

    def time(self, calls):
        answer, _ = self.ask(do="time", calls=calls)
        return answer["wall"], answer["cpu"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
