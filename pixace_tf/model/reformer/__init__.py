"""The reformer: a reversible stack with exact or LSH attention.

It works on any sequences of vectors, not only on images.
"""
