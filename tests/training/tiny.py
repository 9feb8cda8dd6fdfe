"""A tiny set of digits in MNIST's format, a server that has it, and patches that make it count as MNIST."""

import gzip
import hashlib
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from manual_grad.training import idx

COUNTS = {"train": 23, "t10k": 11}


def write_files(folder, seed=0):
    """Four IDX files, packed; what each holds, unpacked."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    arrays = {}
    for file in idx.FILES:
        n = COUNTS[file.split("-")[0]]
        high, shape = (256, (n, 28, 28)) if "images" in file else (10, (n,))
        arrays[file] = rng.integers(0, high, shape, dtype=np.uint8)
        (folder / f"{file}.gz").write_bytes(gzip.compress(unpacked(arrays[file]), mtime=0))
    return arrays


def unpacked(array):
    return idx.idx_header(array.shape) + array.tobytes()


def take_for_mnist(patch, folder, arrays, url=None):
    """Let the project, and tensorflow-datasets, expect these files in MNIST's place, at this address."""
    for file, array in arrays.items():
        patch.setitem(idx.FILES, file, (array.shape, hashlib.sha256(unpacked(array)).hexdigest()))
    if url:
        from tensorflow_datasets.core.download import checksums
        from tensorflow_datasets.core.utils import Size
        from tensorflow_datasets.image_classification import mnist

        infos = {}
        for file in arrays:
            packed = (folder / f"{file}.gz").read_bytes()
            sha256 = hashlib.sha256(packed).hexdigest()
            infos[f"{url}{file}.gz"] = checksums.UrlInfo(Size(len(packed)), sha256, f"{file}.gz")
        patch.setattr(mnist.MNIST, "URL", url)
        patch.setattr(mnist.MNIST, "url_infos", infos)


@contextmanager
def server(folder, manner="good", barrier=None):
    """Serve the files of ``folder`` on a free port, well or badly; the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if barrier and "train-images" in self.path:
                barrier.wait(30)
            content = (folder / self.path[1:]).read_bytes()
            if manner == "silent" or (manner == "stalls" and "t10k" in self.path):
                time.sleep(1)
                return
            if manner == "404":
                self.send_error(404)
                return
            if manner == "wrong" and "labels" in self.path:
                content = b"<html>Please log in.</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if manner == "truncated" else content)

        def log_message(self, *words):
            """Print nothing."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/"
    finally:
        httpd.shutdown()
        httpd.server_close()
