"""One end of a TCP connection that counts: each line that the client sends comes back.

talk.py serve ADDRESS PORT              answers every connection
talk.py talk ADDRESS PORT SOURCE_PORT   sends a line every 20 ms
talk.py wait ADDRESS PORT SOURCE_PORT   sends one line, and then waits in silence
talk.py late ADDRESS PORT SOURCE_PORT   is talk, but connects only once it has read a line

Prints what happens, an event a line: ready, connected, the number of each line that came back, reset,
refused; before it the time, in nanoseconds of CLOCK_MONOTONIC.
"""

import socket
import sys
import threading
import time


def say(*words):
    print(time.monotonic_ns(), *words, flush=True)


def serve(listener):
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=answer, args=(connection, peer), daemon=True).start()


def answer(connection, peer):
    try:
        while data := connection.recv(4096):
            connection.sendall(data)
    except (ConnectionResetError, ConnectionAbortedError):
        say("reset", peer[1])


def talk(connection, pause):
    number = 0
    lines = connection.makefile("r")
    while True:
        number += 1
        connection.sendall(b"%d\n" % number)
        say(lines.readline().strip())
        if pause is None:
            lines.readline()
            return
        time.sleep(pause)


role, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    if role == "serve":
        s.bind((address, port))
        s.listen()
        say("listening")
        serve(s)
    if role == "late":
        say("ready")
        sys.stdin.readline()
    s.bind(("", int(sys.argv[4])))
    s.settimeout(5)
    s.connect((address, port))
    s.settimeout(None)
    say("connected")
    talk(s, None if role == "wait" else 0.02)
except (ConnectionResetError, BrokenPipeError, ConnectionAbortedError):
    say("reset")
except ConnectionRefusedError:
    say("refused")
