"""Speaks mTLS with nothing but Python's standard library.

With --listen it serves until it is killed: its first line is its port, and it answers with the
SPIFFE ID of whoever asks. With --connect it asks a URL once and prints the answer.
"""

import argparse
import http.server
import ssl
import urllib.request


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", metavar="HOST:PORT")
    parser.add_argument("--connect", metavar="URL")
    parser.add_argument("--cert", required=True, help="own chain, PEM")
    parser.add_argument("--key", required=True, help="own key, PEM")
    parser.add_argument("--bundle", required=True, help="whom to trust, PEM")
    options = parser.parse_args()
    if options.listen:
        serve(options)
    else:
        ask(options)


def context(purpose, options):
    """Trusts the bundle alone. Strict is the default from Python 3.13; older ones are told to."""
    made = ssl.create_default_context(purpose, cafile=options.bundle)
    made.load_cert_chain(options.cert, options.key)
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    return made


class Answer(http.server.BaseHTTPRequestHandler):
    """Says who asks."""

    def do_GET(self):
        names = self.connection.getpeercert()["subjectAltName"]
        body = next(value for kind, value in names if kind == "URI").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(options):
    host, port = options.listen.rsplit(":", 1)
    server = http.server.ThreadingHTTPServer((host, int(port)), Answer)
    server.socket = context(ssl.Purpose.CLIENT_AUTH, options).wrap_socket(
        server.socket, server_side=True
    )
    print(server.server_port, flush=True)
    server.serve_forever()


def ask(options):
    tls = context(ssl.Purpose.SERVER_AUTH, options)
    with urllib.request.urlopen(options.connect, context=tls, timeout=100) as answer:
        print(answer.read().decode())


main()
