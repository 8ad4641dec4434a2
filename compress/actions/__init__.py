"""What the stages do: one module a stage, called with the stage's fields and its context."""
