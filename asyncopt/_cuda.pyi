"""Types of the CUDA kernels, where the build has them."""

LAYOUT: int
VERSION: str

def open(number: int) -> int: ...
