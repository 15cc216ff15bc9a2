"""What every rule promises under every sync, for every dtype and instruction set of the build."""
