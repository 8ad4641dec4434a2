"""The two codes, prefix codes and table ANS, as tables; integers only, so that every machine makes the same ones."""
