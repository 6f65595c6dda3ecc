"""The competitors, each a program as its users would write it: `python -m benchmarks.peers.NAME SETTINGS`.

The clock starts when all that is needed has been imported and the data lie in memory, at the network's size;
building the network and loading its first weights are in the timed part. It stops when the network is trained
and its accuracy on the validation images after the last epoch is known. The last line of output is a JSON
object.
"""
