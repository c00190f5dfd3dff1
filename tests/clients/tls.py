"""Puts TLS in front of a simulator, for libraries that speak nothing else."""

import contextlib
import os
import socket
import ssl
import threading

import trustme


def copy(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def serve(listener, context, host, port):
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with contextlib.suppress(OSError):
            inside = context.wrap_socket(client, server_side=True)
            outside = socket.create_connection((host, port))
            for pair in ((inside, outside), (outside, inside)):
                threading.Thread(target=copy, args=pair, daemon=True).start()


@contextlib.contextmanager
def before(address, directory):
    """The https address of an http one; whoever asks for REQUESTS_CA_BUNDLE trusts it."""
    authority = trustme.CA()
    bundle = os.path.join(directory, "authority.pem")
    authority.cert_pem.write_to_path(bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = (listener, context, host, int(port))
        threading.Thread(target=serve, args=arguments, daemon=True).start()
        before = os.environ.get("REQUESTS_CA_BUNDLE")
        os.environ["REQUESTS_CA_BUNDLE"] = bundle
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            os.environ.pop("REQUESTS_CA_BUNDLE")
            if before is not None:
                os.environ["REQUESTS_CA_BUNDLE"] = before
            # An accept that waits is not woken by close alone.
            listener.shutdown(socket.SHUT_RDWR)
