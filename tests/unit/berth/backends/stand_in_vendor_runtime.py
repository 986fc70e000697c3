"""Stands in for a vendor's compiler and runtime, of which there is no public software. Real processes.

compile ARTEFACT FOLDER      writes FOLDER/model; refuses what begins with "unsupported"
serve FOLDER PORT            an HTTP server; the model's text says how it behaves
health PORT                  exit code 0 ready, 3 not there, 1 not ready
load|unload|state NAME       a runtime elsewhere, whose models are files in $STAND_IN_MODELS
check FORMAT BYTES
"""

import http.server
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path


def compile_model(artefact: str, folder: str) -> int:
    content = Path(artefact).read_text()
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write("compile\n")
    if content.startswith("unsupported"):
        print("line of progress", flush=True)
        print("error: operator Einsum is not supported", file=sys.stderr)
        return 1
    if content.startswith("endless compile"):
        time.sleep(600)
    Path(folder, "model").write_text(content)
    return 0


def serve(folder: str, port: str) -> int:
    content = Path(folder, "model").read_text()
    begun = time.monotonic()
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write("serve\n")
    if content.startswith("crashes"):
        print("error: no device", file=sys.stderr)
        return 4
    # A worker of its own session, as runtimes have them: it must not outlive the model.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/stop":
                os._exit(5)
            if content.startswith("hangs"):
                time.sleep(600)
            warm = not content.startswith("never ready") and (
                not content.startswith("warms up") or time.monotonic() - begun > 1.0
            )
            if content.startswith("sickens") and time.monotonic() - begun > 1.0:
                warm = False
            self.send_response(200 if warm else 503)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
    return 0


def health(port: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60):
            return 0
    except urllib.error.HTTPError as error:
        print(f"the runtime says {error.code}")
        return 1
    except OSError:
        return 3


def model(name: str) -> Path:
    return Path(os.environ["STAND_IN_MODELS"], name)


def load(name: str, folder: str) -> int:
    content = Path(folder, "model").read_text()
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write("load\n")
    if content.startswith("too many"):
        print("error: no slot is free")
        return 1
    model(name).write_text(content)
    if content.startswith("endless load"):
        time.sleep(600)
    return 0


def unload(name: str) -> int:
    if model(name).read_text().startswith("stays"):
        print("error: busy")
        return 1
    model(name).unlink()
    return 0


def state(name: str) -> int:
    return 0 if model(name).exists() else 3


def check(format: str, size: str) -> int:
    if int(size) > 1000:
        print(f"{format} of {size} bytes does not fit the chip")
        return 1
    return 0


if __name__ == "__main__":
    commands: dict[str, Callable[..., int]] = {
        "compile": compile_model,
        "serve": serve,
        "health": health,
        "load": load,
        "unload": unload,
        "state": state,
        "check": check,
    }
    sys.exit(commands[sys.argv[1]](*sys.argv[2:]))
