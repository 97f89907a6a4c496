"""Rules of matrix products and Einsum, by the labels of their axes."""
