"""Run as a script: `todoke dev` over real PostgreSQL, SQS and S3, with stand-ins for the three processes.

python dummy_desk.py STATE PORT [api|worker|notifier=SCRIPT] [no-restart]
"""

import os
import sys
from pathlib import Path

from todoke.dev import stack

API = """
import http.server, os, signal, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=int(os.environ["TODOKE_LISTEN_FD"]))
server.serve_forever()
"""
SLEEP = "import time; time.sleep(600)"


def main(state: str, port: str, *more: str) -> int:
    """Run until SIGTERM."""
    scripts = {"api": API, "worker": SLEEP, "notifier": SLEEP}
    scripts |= dict(word.split("=", 1) for word in more if "=" in word)
    return stack.run(
        stack.Options(
            port=int(port),
            state=Path(state),
            workers=2,
            restart="no-restart" not in more,
            durable=False,
            environment=dict(os.environ),
            programs={kind: [sys.executable, "-c", script] for kind, script in scripts.items()},
            migrate=lambda _: None,
        )
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
