# dead_mount.py FOLDER PROGRAM ARGS…: runs PROGRAM where FOLDER is a file system that never answers.
#
# A FUSE mount whose server reads no request, in a mount namespace of its own, so that nothing of it is left
# when this ends. Exits with what PROGRAM exits with, and with 77 where this user or machine cannot have it.
import ctypes
import os
import subprocess
import sys

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
NOT_HERE = 77
LONGEST_SECONDS = 300


def call(name, *args):
    if getattr(libc, name)(*args) != 0:
        print(f"{name}: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(NOT_HERE)


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


libc = ctypes.CDLL(None, use_errno=True)
folder = sys.argv[1].encode()
user, group = os.getuid(), os.getgid()
try:
    fuse = os.open("/dev/fuse", os.O_RDWR)
except OSError as err:
    print(err, file=sys.stderr)
    sys.exit(NOT_HERE)
if user == 0:
    call("unshare", CLONE_NEWNS)
else:
    # Who is root nowhere else may mount there.
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"0 {user} 1")
    write("/proc/self/gid_map", f"0 {group} 1")
call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
options = f"fd={fuse},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
call("mount", b"dead", folder, b"fuse", 0, options.encode())
try:
    done = subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL, timeout=LONGEST_SECONDS)
except subprocess.TimeoutExpired as err:
    sys.exit(str(err))
sys.exit(done.returncode)
