# dead_mount.py FOLDER PROGRAM ARGS…: runs PROGRAM where FOLDER is a file system that never answers.
#
# A FUSE mount whose server reads no request, in a mount namespace of its own, so that nothing of it is left
# when this ends. Exits with what PROGRAM exits with, and with 77 where this user or machine cannot have it.
import ctypes
import os
import subprocess
import sys

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
NOT_HERE = 77


def call(name, *args):
    if getattr(libc, name)(*args) != 0:
        code = ctypes.get_errno()
        print(f"{name}: {os.strerror(code)}", file=sys.stderr)
        sys.exit(NOT_HERE)


libc = ctypes.CDLL(None, use_errno=True)
folder = sys.argv[1].encode()
try:
    fuse = os.open("/dev/fuse", os.O_RDWR)
except OSError as err:
    print(err, file=sys.stderr)
    sys.exit(NOT_HERE)
call("unshare", CLONE_NEWNS)
call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
options = f"fd={fuse},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
call("mount", b"dead", folder, b"fuse", 0, options.encode())
sys.exit(subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL).returncode)
