"""Ways to share a sparse model compared on the problems of the Hogwild! paper."""
