"""Run DeepSparse in an interpreter of its own, on orders from a pipe.

It needs an older numpy than the others, so it cannot live in one process with them.
Arrays cross the pipe once; after that an order says how many calls to time, and the
seconds come back, so that it takes its turn like every other peer.

An order is a line of JSON, followed by as many raw bytes as it says.
"""

import json
import os
import sys
import tempfile
import time

import numpy as np


class Worker:
    """One engine at a time."""

    def load(self, order, payload):
        """Compile the net for a batch size."""
        from deepsparse import compile_model

        onnx = payload[: order["onnx"]]
        rows = np.frombuffer(payload[order["onnx"] :], dtype=np.float32)
        self.inputs = [np.ascontiguousarray(rows.reshape(order["shape"]))]
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(onnx)
            file.flush()
            self.engine = compile_model(
                file.name, batch_size=order["shape"][0], num_cores=order["threads"]
            )
        return {}, b""

    def output(self, order, payload):
        out = np.ascontiguousarray(self.engine.run(self.inputs)[0], dtype=np.float32)
        return {"shape": out.shape}, out.tobytes()

    def time(self, order, payload):
        run, inputs = self.engine.run, self.inputs
        run(inputs)  # whatever took the turn before has had the caches
        cpu, begin = time.process_time(), time.perf_counter()
        for _ in range(order["calls"]):
            run(inputs)
        wall = time.perf_counter() - begin
        return {"wall": wall, "cpu": time.process_time() - cpu}, b""

    def version(self, order, payload):
        from deepsparse.version import version

        return {"version": version}, b""


def main():
    # The engine prints to stdout, so the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin.buffer:
        order = json.loads(line)
        payload = sys.stdin.buffer.read(order.get("bytes", 0))
        try:
            answer, body = getattr(worker, order["do"])(order, payload)
        except Exception as error:  # told to the parent, which leaves the peer out
            answer, body = {"error": f"{type(error).__name__}: {error}"}, b""
        answers.write(json.dumps({**answer, "bytes": len(body)}).encode() + b"\n")
        answers.write(body)
        answers.flush()


if __name__ == "__main__":
    main()
