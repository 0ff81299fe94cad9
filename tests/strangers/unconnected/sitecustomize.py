"""For a process that may not connect: every attempt is written to $ATTEMPTS and fails, as it does without a network."""

import os
import pathlib
import socket


def _refused(what):
    def attempt(*given, **named):
        with pathlib.Path(os.environ["ATTEMPTS"]).open("a") as file:
            file.write(f"{what} {[each for each in given if not isinstance(each, socket.socket)]}\n")
        raise OSError(101, "Network is unreachable")

    return attempt


for _name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, _name, _refused(_name))


class _Socket(socket.socket):
    """Sockets within the machine are not meant."""

    def connect(self, address):
        return super().connect(address) if self.family == socket.AF_UNIX else _refused("connect")(address)

    def connect_ex(self, address):
        return super().connect_ex(address) if self.family == socket.AF_UNIX else _refused("connect_ex")(address)

    def sendto(self, *given):
        return super().sendto(*given) if self.family == socket.AF_UNIX else _refused("sendto")(given[-1])


socket.socket = _Socket
