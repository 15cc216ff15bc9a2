"""The contract of every rule under every sync, for every dtype and instruction set."""
