"""A client process that follows one stream and says how far it has got; a test may stop it: `URL PATH`."""

import socket
import sys

if __name__ == "__main__":
    host, port = sys.argv[1].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as plain:
        plain.sendall(f"GET {sys.argv[2]} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        while data := plain.recv(65536):
            print(len(data), flush=True)
