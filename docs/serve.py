"""Name cells over HTTP: POST an image file, get its type as JSON.

python docs/serve.py cells.wbcprof 8000
curl --data-binary @cell.png http://localhost:8000

Each connection has a thread of its own, and each cell is profiled on that thread.
"""

import json
import math
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import wbcprof
from wbcprof.analysis import name_cells

MOST_BYTES = 16 << 20


class Cells(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = wbufsize = True  # an answer is sent as a whole

    def do_POST(self):
        try:
            status, answer = 200, self.name_cell(int(self.headers["Content-Length"] or 0))
        except (TypeError, ValueError) as error:  # no image, or not one of a cell
            status, answer = 400, {"error": str(error)}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def name_cell(self, n_bytes):
        if not 0 < n_bytes <= MOST_BYTES:
            self.close_connection = True
            raise ValueError(f"expected an image of 1 to {MOST_BYTES} bytes, got {n_bytes}")
        cell = name_cells(model, model.profile(self.rfile.read(n_bytes), n_threads=1))
        values = [cell.novelty_p[0], *cell.probabilities[0]]  # NaN where it cannot be known
        p, *shares = [None if math.isnan(value) else float(value) for value in values]
        probabilities = dict(zip(cell.types.tolist(), shares, strict=True))
        return {"call": str(cell.calls[0]), "novelty_p": p, "probabilities": probabilities}

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    model = wbcprof.load(sys.argv[1])
    ThreadingHTTPServer(("localhost", int(sys.argv[2])), Cells).serve_forever()
