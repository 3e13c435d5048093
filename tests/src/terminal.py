"""Runs a command on a pseudo terminal, types what is asked for, and prints what it showed.

Arguments: columns, a JSON list of [prompt, answer], the command. An answer is typed once its prompt was
shown. Exits as the command does; 124 where it has shown nothing for two minutes.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios



def wait_until_hidden(terminal):
    """A secret is typed once it is not shown, which is a moment after its prompt: on a busy machine a long one."""
    for _ in range(6000):
        if not termios.tcgetattr(terminal)[3] & termios.ECHO:
            return
        select.select([], [], [], 0.01)


columns, answers, command = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.execv(command[0], command)
shown, looked_at = b"", 0
while True:
    ready, _, _ = select.select([terminal], [], [], 120)
    if not ready:
        os.kill(child, 9)
        sys.stdout.buffer.write(shown)
        sys.exit(124)
    try:
        part = os.read(terminal, 65536)
    except OSError:  # Linux: the other side is closed.
        part = b""
    if not part:
        break
    shown += part
    if answers and answers[0][0].encode() in shown[looked_at:]:
        looked_at = len(shown)
        prompt, answer = answers.pop(0)
        if not prompt.startswith("Type yes"):
            wait_until_hidden(terminal)
        os.write(terminal, answer.encode() + b"\n")
sys.stdout.buffer.write(shown)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
