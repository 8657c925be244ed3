"""A program of a user: decides about connects over the control socket. Started by the tests in a process of its own.

    verdict_program.py SOCKET REPLICA

Every name but `far.acme` and `slow.acme` is resolved, `far.acme` goes to the address REPLICA, and `slow.acme` gets no
verdict. It prints what it sees, one JSON object a line. Nothing of BlockCloud is imported: JSON lines are all it takes.
"""

import json
import socket
import sys

control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
lines = control.makefile("rw")


def send(**request: object) -> None:
    lines.write(json.dumps(request) + "\n")
    lines.flush()


send(op="subscribe", decide=True)
for line in lines:
    message = json.loads(line)
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
    if "id" not in message or message["name"] == "slow.acme":
        continue
    if message["name"] == "far.acme":
        send(op="verdict", id=message["id"], action="forward", to=[sys.argv[2]])
    elif message["event"] == "miss":
        send(op="verdict", id=message["id"], action="resolve")
    else:
        send(op="verdict", id=message["id"], action="drop", reason="not at night")
