"""How long devices are waited for and where this machine listens, unless somebody says otherwise.

Nothing is imported here: the command line shows these numbers in its help.
"""

# Seconds: until a device is free; for one operation on it; for a device that a tracker has lost for
# a moment, because a session of its died.
WAIT_S, DEADLINE_S, RETURN_S = 60.0, 120.0, 5.0
# An upload has a second for each MB, besides the deadline of any operation.
UPLOAD_BYTES_PER_S = 1e6

# Whoever reaches a tracker or a server can run any code.
LOOPBACK = "127.0.0.1"
TRACKER_PORT, SERVER_PORT = 9190, 9090
