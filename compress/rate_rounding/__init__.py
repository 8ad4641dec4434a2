"""Integers for the weights of a network, chosen by what they lose and by the bits that they cost. Arrays only."""
