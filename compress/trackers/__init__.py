"""A run in the words of trackers of experiments: MLflow and TensorBoard."""
