"""Sockets and time: everything of the picker that waits."""

import os

# gRPC's C++ core would write lines of its own form between ours, for example beside our one line that
# says which port is in use. Read when grpc is first imported, which happens in this package.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
