"""A client written from docs/WIRE.md alone: sends the bytes of its example to a real server, over TCP
and over a Unix socket, and offers it shared memory.

Usage: wire_example_test.py docs/WIRE.md SERVER_PROGRAM
"""

import re
import socket
import subprocess
import sys
import tempfile


def examples(text):
    """The hex dumps of section 7, each as bytes: what stands before the comment of each line."""
    section = text[text.index("## 7. An example"):]
    for block in re.findall(r"```\n(.*?)```", section, re.S):
        lines = (re.match(r"((?:[0-9a-f]{2} {1,2})*[0-9a-f]{2})(?:  .*)?$", line)
                 for line in block.splitlines())
        yield b"".join(bytes.fromhex(line.group(1)) for line in lines)


def read_exactly(peer, size):
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            sys.exit("the server closed the connection after %s" % data.hex(" "))
        data += part
    return data


def read_message(peer):
    header = read_exactly(peer, 32)
    return header + read_exactly(peer, int.from_bytes(header[:4], "little") - 32)


FEATURES = 8 + 32 + 16 + 8  # offset of Hello.features in the client's first bytes
SHARED_MEMORY = 1


def start(server_program, endpoint):
    """The running server, and the endpoint where it listens."""
    server = subprocess.Popen([server_program, "--listen=" + endpoint],
                              stdout=subprocess.PIPE, text=True)
    return server, re.fullmatch(r"listening on (.*)\n", server.stdout.readline()).group(1)


def connect(endpoint):
    if endpoint.startswith("unix:"):
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(20)
        peer.connect(endpoint[len("unix:"):])
        return peer
    host, port = re.fullmatch(r"tcp:(.*):(\d+)", endpoint).groups()
    return socket.create_connection((host, int(port)), timeout=20)


def read_greeting(peer, opening):
    """The server's first message."""
    received = read_exactly(peer, 8)
    if received != opening:
        sys.exit("the server's opening is %s" % received.hex(" "))
    return read_message(peer)


def expect_message(peer, expected):
    received = read_message(peer)
    if received != expected:
        sys.exit("docs/WIRE.md says %s\nthe server says   %s"
                 % (expected.hex(" "), received.hex(" ")))


def expect_answer(peer, call, answer):
    peer.sendall(call)
    expect_message(peer, answer)


def example_works(endpoint, hello, call, answer, stop=None, goodbyes=()):
    """`stop` makes the server say `goodbyes` to who is connected."""
    with connect(endpoint) as peer:
        peer.sendall(hello)
        server_hello = read_greeting(peer, hello[:8])
        if server_hello[4] != 1:
            sys.exit("the server's first message has type %d" % server_hello[4])
        expect_answer(peer, call, answer)
        if stop:
            stop()
        for goodbye in goodbyes:
            expect_message(peer, goodbye)


def declined_offer_leaves_a_stream(endpoint, offer, call, answer):
    with connect(endpoint) as peer, open("/dev/null", "rb") as some:
        socket.send_fds(peer, [offer], [some.fileno()])
        server_hello = read_greeting(peer, offer[:8])
        features = server_hello[FEATURES - 8]
        if server_hello[4] != 1 or features & SHARED_MEMORY or b"shared memory" not in server_hello:
            sys.exit("a server without shared memory answers %s" % server_hello.hex(" "))
        expect_answer(peer, call, answer)


def offer_without_descriptor_is_refused(endpoint, offer):
    with connect(endpoint) as peer:
        peer.sendall(offer)
        close = read_greeting(peer, offer[:8])
        if (close[4], close[6]) != (6, 3):
            sys.exit("an offer without a descriptor is answered with %s" % close.hex(" "))


def main(wire_md, server_program):
    with open(wire_md, encoding="utf-8") as file:
        hello, call, answer, *goodbyes = examples(file.read())
    if len(goodbyes) != 2:
        sys.exit("docs/WIRE.md has %d goodbyes" % len(goodbyes))
    offer = bytearray(hello)
    offer[FEATURES] |= SHARED_MEMORY
    offer = bytes(offer)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # short: paths of sockets are
        for endpoint in ["tcp:127.0.0.1:0", "unix:%s/s" % directory]:
            server, endpoint = start(server_program, endpoint)
            try:
                example_works(endpoint, hello, call, answer)
                if endpoint.startswith("unix:"):
                    declined_offer_leaves_a_stream(endpoint, offer, call, answer)
                    offer_without_descriptor_is_refused(endpoint, offer)
                else:
                    example_works(endpoint, offer, call, answer)  # the bit is ignored
                example_works(endpoint, hello, call, answer, server.terminate, goodbyes)
            finally:
                server.terminate()
                server.wait(timeout=20)


if __name__ == "__main__":
    main(*sys.argv[1:])
