"""Every kernel in array-API terms: the reference, and the path for all other libraries."""
