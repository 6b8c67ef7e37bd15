"""The benchmark harness: genbatch beside its peers, and the long fuzz."""
