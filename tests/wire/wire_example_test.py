"""A client written from docs/WIRE.md alone: sends the bytes of its example to a real server.

Usage: wire_example_test.py docs/WIRE.md SERVER_PROGRAM
"""

import re
import socket
import subprocess
import sys


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


def main(wire_md, server_program):
    with open(wire_md, encoding="utf-8") as file:
        hello, call, answer = examples(file.read())
    server = subprocess.Popen([server_program, "--listen=tcp:127.0.0.1:0"],
                              stdout=subprocess.PIPE, text=True)
    try:
        port = int(re.fullmatch(r"listening on tcp:127\.0\.0\.1:(\d+)\n",
                                server.stdout.readline()).group(1))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
            peer.sendall(hello)
            opening = read_exactly(peer, 8)
            if opening != hello[:8]:
                sys.exit("the server's opening is %s" % opening.hex(" "))
            server_hello = read_message(peer)
            if server_hello[4] != 1:
                sys.exit("the server's first message has type %d" % server_hello[4])
            peer.sendall(call)
            received = read_message(peer)
            if received != answer:
                sys.exit("docs/WIRE.md says %s\nthe server says   %s"
                         % (answer.hex(" "), received.hex(" ")))
    finally:
        server.terminate()
        server.wait(timeout=20)


if __name__ == "__main__":
    main(*sys.argv[1:])
