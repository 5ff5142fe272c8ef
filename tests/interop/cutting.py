"""A proxy that breaks connections off: in front of a server, for what must survive that."""

import contextlib
import socket
import socketserver
import threading


class Cutting:
    """Forwards to a port of this machine. The next `cuts` answers end after so many bytes, as if a cable was pulled."""

    def __init__(self, port):
        self.port = port
        self.cuts = []  # bytes of the answer that still pass, one entry a connection
        self.requests = []  # heads of the requests that came, as text
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                outer.forward(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def forward(self, near):
        """One connection. Each carries one exchange that is cut, or any number that are not."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as far:
            threading.Thread(target=self.up, args=(near, far), daemon=True).start()
            left = None
            while piece := far.recv(4096):
                if left is None and self.cuts:
                    left = self.cuts.pop(0)
                if left is not None and len(piece) > left:
                    near.sendall(piece[:left])
                    return
                left = None if left is None else left - len(piece)
                near.sendall(piece)

    def up(self, near, far):
        """What the client says."""
        with contextlib.suppress(OSError):
            while piece := near.recv(65536):
                if piece.split(b" ")[0] in (b"GET", b"POST"):
                    self.requests.append(piece.split(b"\r\n\r\n")[0].decode("latin-1"))
                far.sendall(piece)
            far.shutdown(socket.SHUT_WR)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
