"""What parts of a trained network can bear: each is changed alone, and the outputs and scores are looked at."""
