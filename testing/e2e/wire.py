"""HTTP/2 by hand, frame by frame, and certificates: for peers that do what no library lets them do.

Heads are literal fields without Huffman and without a table (RFC 7541 §6.2.2); of an answer's head only the status is read.
"""

import pathlib
import shutil
import socket
import ssl
import struct
import subprocess

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 7, 8, 11
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _string(data):
    """A length of seven bits and more, without Huffman."""
    if len(data) < 127:
        return bytes([len(data)]) + data
    length, digits = len(data) - 127, b""
    while length >= 128:
        digits += bytes([length & 127 | 128])
        length >>= 7
    return b"\x7f" + digits + bytes([length]) + data


def block(fields):
    return b"".join(b"\0" + _string(name.encode()) + _string(value.encode()) for name, value in fields)


def head(method, path, authority="x", scheme="http", **more):
    fields = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
    return block(fields + [(name.replace("_", "-"), value) for name, value in more.items()])


_STATIC = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
_DIGITS = {"00000": 0, "00001": 1, "00010": 2} | {f"{0x19 + n:06b}": 3 + n for n in range(7)}


def status(data):
    """The status of the first answer of a connection (later ones may lean on a table that is not kept here)."""
    while data[0] & 0xE0 == 0x20:  # a change of the table's size
        data = data[1:]
    if data[0] & 0x80:
        return _STATIC[data[0] & 0x7F]
    # A literal with the name `:status`, indexed or not.
    length, text = data[1] & 0x7F, data[2:]
    if not data[1] & 0x80:
        return int(text[:length])
    bits, digits, word = "".join(f"{byte:08b}" for byte in text[:length]), [], ""
    for bit in bits:
        word += bit
        if word in _DIGITS:
            digits.append(_DIGITS[word])
            word = ""
    return int("".join(map(str, digits[:3])))


class Closed(Exception):
    """The service has closed the connection."""


class Connection:
    """A client's side of HTTP/2 that sends whatever it is told to."""

    def __init__(self, address, settings=(), tls=None, timeout=30):
        self.socket = socket.create_connection(address, timeout=timeout)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""
        self.goodbye = None  # the code of a GOAWAY that came
        payload = b"".join(struct.pack(">HI", *pair) for pair in settings)
        self.send(PREFACE, frame(SETTINGS, payload=payload))

    def send(self, *frames):
        try:
            self.socket.sendall(b"".join(frames))
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError) as error:
            raise Closed from error

    def get(self, stream, path="/version", flags=END_HEADERS | END_STREAM, **more):
        self.send(frame(HEADERS, flags, stream, head("GET", path, **more)))

    def next(self):
        """The next frame: (kind, flags, stream, payload)."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            try:
                part = self.socket.recv(65536)
            except (ConnectionResetError, ssl.SSLError) as error:
                raise Closed from error
            if not part:
                raise Closed
            self.buffer += part
        length, kind, flags, stream = int.from_bytes(self.buffer[:3], "big"), *struct.unpack(">BBI", self.buffer[3:9])
        payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
        if kind == GOAWAY:
            self.goodbye = int.from_bytes(payload[4:8], "big")
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK))
        if kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, payload=payload))
        return kind, flags, stream, payload

    def until(self, kind, stream=None):
        """The payload of the next frame of a kind."""
        while True:
            seen, _, of, payload = self.next()
            if seen == kind and stream in (None, of):
                return payload

    def answer(self, stream):
        """(status, body) of the connection's first answer."""
        seen, body = None, b""
        while True:
            kind, flags, of, payload = self.next()
            if of != stream:
                continue
            if kind == HEADERS:
                seen = status(payload)
            if kind == DATA:
                body += payload
            if kind == RST_STREAM or flags & END_STREAM and kind in (DATA, HEADERS):
                return seen, body

    def rest(self):
        """The kinds of all frames to the end."""
        kinds = []
        try:
            while True:
                kinds.append(self.next()[0])
        except Closed:
            return kinds

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Authority:
    """Issues certificates into a folder with `openssl`."""

    def __init__(self, folder, name="authority"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.cert,
        )

    @property
    def cert(self):
        return self.folder / f"{self.name}.pem"

    @property
    def key(self):
        return self.folder / f"{self.name}.key"

    def issue(self, name, use="serverAuth"):
        """(certificate, key) for localhost, or for a client."""
        cert, key, request, extensions = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
        self._openssl(
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", key, "-out", request,
        )
        extensions.write_text(f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={use}\nbasicConstraints=CA:FALSE\n")
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", "30",
            "-extfile", extensions, "-out", cert,
        )
        key.chmod(0o600)
        return cert, key

    def _openssl(self, *arguments):
        if not shutil.which("openssl"):
            subprocess.run(["apt-get", "install", "-qqy", "openssl"], check=True, stdout=subprocess.DEVNULL)
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def trusting(self, cert=None, alpn=()):
        """A client's context that trusts this authority, with a certificate of its own if one is given."""
        context = ssl.create_default_context(cafile=str(self.cert))
        if cert:
            context.load_cert_chain(*map(str, cert))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context
