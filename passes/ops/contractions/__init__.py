"""Rules of matrix products, of floats and of integers, and Einsum, by the labels of their axes."""
