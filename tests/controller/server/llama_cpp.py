"""llama.cpp's server in a process of its own, as the wheel `xllamacpp` has it.

python -m tests.controller.server.llama_cpp FILE.gguf NAME [SLOTS]
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[3]


def main(path, name, slots="4"):
    """Serve one model until the input ends; the first line of output is the URL."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = [name]
    params.n_parallel = int(slots)
    params.n_ctx = 1024 * int(slots)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity, params.warmup = -1, False
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    print(f"{server.listening_address}/v1", flush=True)
    sys.stdin.read()
    os._exit(0)


@contextmanager
def llama_cpp(path, name, slots=4):
    """The URL of a server of a GGUF file, up to and including `/v1`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.controller.server.llama_cpp", str(path), name, str(slots)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = next((line for line in process.stdout if line.startswith("http")), None)
        assert url is not None, "llama.cpp's server ended"
        yield url.strip()
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
