"""Inner computations: plain arrays and ints in, plain arrays out."""
