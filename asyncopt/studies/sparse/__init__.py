"""``asyncopt compare`` on the sparse problems of the Hogwild! paper, beside other libraries."""
